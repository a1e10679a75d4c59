from __future__ import annotations

from pathlib import Path

import pytest

import mlx_server_nano
from mlx_server_nano.config.models import Loading, ModelOptions, RequestDefaults
from mlx_server_nano.errors import ModelNotFoundError, UnsupportedModelError
from mlx_server_nano.models.architectures import known_model_types
from mlx_server_nano.models.catalog import BUILT_IN, AvailableModel, Catalog
from mlx_server_nano.models.names import ModelKind
from tests.models.folders import cache_repository, write_model
from tests.tiny_models import ARCHITECTURES, make_model

OWN = "mlx-community"


def ids(catalog: Catalog) -> list[str]:
    return [model.ref.id for model in catalog.available()]


def test_an_empty_or_missing_cache_gives_an_empty_list(tmp_path: Path) -> None:
    assert Catalog(cache_dir=tmp_path).available() == []
    assert Catalog(cache_dir=tmp_path / "absent").available() == []


def test_the_cache_is_the_librarys_own_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = cache_repository(tmp_path, f"{OWN}/Tiny-4bit")
    assert Catalog().resolve("tiny").folder == snapshot


def test_lists_built_in_and_cached_models(tmp_path: Path) -> None:
    cache_repository(tmp_path, f"{OWN}/b-4bit")
    snapshot = cache_repository(tmp_path, "A-owner/c", shards=3)
    demo = write_model(tmp_path / "demo-folder")
    catalog = Catalog(cache_dir=tmp_path, built_in={"demo": demo, "gone": tmp_path / "gone"}, allow_local_paths=False)
    assert ids(catalog) == ["demo", "A-owner/c", f"{OWN}/b-4bit"]
    built_in, cached, _ = catalog.available()
    assert (built_in.ref.kind, built_in.ref.folder) == (ModelKind.BUILT_IN, demo)
    assert (cached.ref.kind, cached.created) == (ModelKind.HUB, int(snapshot.stat().st_mtime))
    for name in ("demo", "Demo"):
        ref = catalog.resolve(name)
        assert (ref.id, ref.kind, ref.folder) == ("demo", ModelKind.BUILT_IN, demo)
    with pytest.raises(ModelNotFoundError, match=r"'gone' .* missing from .*gone.* Install"):
        catalog.resolve("gone")
    (demo / "model.safetensors").unlink()
    assert ids(catalog) == ["A-owner/c", f"{OWN}/b-4bit"]
    with pytest.raises(ModelNotFoundError, match=r"'demo' .* missing"):
        catalog.resolve("demo")


def test_the_demo_model_is_in_the_package(tmp_path: Path) -> None:
    catalog = Catalog(cache_dir=tmp_path, built_in=BUILT_IN)
    assert ids(catalog) == ["demo"]
    assert catalog.resolve("demo").folder == Path(mlx_server_nano.__file__).parent / "demo"


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_every_architecture_of_the_tests_is_listed(tmp_path: Path, arch: str) -> None:
    make_model(tmp_path / "models--o--m" / "snapshots" / "1", arch, shards=2)
    assert ids(Catalog(cache_dir=tmp_path)) == ["o/m"]


def damage(cache: Path, name: str, **changes: object) -> Path:
    return cache_repository(cache, f"{OWN}/{name}", **changes)


def test_lists_only_what_can_be_loaded(tmp_path: Path) -> None:
    damage(tmp_path, "fine")
    (damage(tmp_path, "no-weights") / "model.safetensors").unlink()
    (damage(tmp_path, "no-config") / "config.json").unlink()
    (damage(tmp_path, "no-tokenizer") / "tokenizer.json").unlink()
    (damage(tmp_path, "shard-missing", shards=3) / "model-00002-of-00003.safetensors").unlink()
    index = '{"weight_map": {"a": "model-a.safetensors"}}'
    damage(tmp_path, "index-unmet", files={"model.safetensors.index.json": index})
    link = damage(tmp_path, "broken-link") / "model.safetensors"
    link.unlink()
    link.symlink_to("../../blobs/gone")
    damage(tmp_path, "encoder", files={"config.json": '{"model_type": "bert"}'})
    damage(tmp_path, "no-type", files={"config.json": "{}"})
    damage(tmp_path, "no-json", files={"config.json": "\0"})
    damage(tmp_path, "a-list", files={"config.json": "[]"})
    damage(tmp_path, "own-code", files={"config.json": '{"model_type": "x", "model_file": "x.py"}'})
    damage(tmp_path, "diffusion", files={"model_index.json": "{}"})
    gguf = damage(tmp_path, "gguf", files={"x.gguf": ""})
    (gguf / "model.safetensors").unlink()
    (tmp_path / "models--empty--one").mkdir()
    (tmp_path / "models--").mkdir()
    (tmp_path / "models--noslash").mkdir()
    (tmp_path / "models--a--file").write_text("")
    (tmp_path / "datasets--a--b").mkdir()
    (tmp_path / "version.txt").write_text("1")
    assert ids(Catalog(cache_dir=tmp_path)) == [f"{OWN}/fine"]
    assert ids(Catalog(cache_dir=tmp_path, trust_remote_code=["*/own-*"])) == [f"{OWN}/fine", f"{OWN}/own-code"]


def test_the_snapshot_of_main_comes_first_then_any_complete_one(tmp_path: Path) -> None:
    old = damage(tmp_path, "m")
    new = write_model(old.parent / ("1" * 40))
    main = old.parent.parent / "refs" / "main"
    catalog = Catalog(cache_dir=tmp_path)
    assert catalog.resolve(f"{OWN}/m").folder == old
    main.write_text("1" * 40)
    assert catalog.resolve(f"{OWN}/m").folder == new
    (new / "model.safetensors").unlink()  # an update that broke off
    assert catalog.resolve(f"{OWN}/m").folder == old
    main.write_bytes(b"\xff\xfe")
    assert catalog.resolve(f"{OWN}/m").folder == old
    main.unlink()
    assert catalog.resolve(f"{OWN}/m").folder == old


def test_a_repository_id(tmp_path: Path) -> None:
    snapshot = damage(tmp_path, "Model-4bit")
    catalog = Catalog(cache_dir=tmp_path)
    for name in (f"{OWN}/Model-4bit", f"{OWN.upper()}/model-4BIT"):
        ref = catalog.resolve(name)
        assert (ref.id, ref.kind, ref.folder) == (f"{OWN}/Model-4bit", ModelKind.HUB, snapshot)
    absent = catalog.resolve("Some/Other")
    assert (absent.id, absent.folder) == ("Some/Other", None)
    (snapshot / "model.safetensors").unlink()
    assert catalog.resolve(f"{OWN}/Model-4bit").folder is None


def test_a_cached_repository_that_cannot_be_loaded_needs_no_hub_to_be_refused(tmp_path: Path) -> None:
    damage(tmp_path, "encoder", files={"config.json": '{"model_type": "bert"}'})
    with pytest.raises(UnsupportedModelError, match="'bert'"):
        Catalog(cache_dir=tmp_path).resolve(f"{OWN}/encoder")


def test_a_short_name(tmp_path: Path) -> None:
    damage(tmp_path, "Qwen3-30B-A3B-Instruct-2507-4bit")
    catalog = Catalog(cache_dir=tmp_path)
    assert catalog.resolve("qwen3-30b-a3b-instruct-2507").id == f"{OWN}/Qwen3-30B-A3B-Instruct-2507-4bit"

    cache_repository(tmp_path, "other/qwen3-30b-a3b-instruct-2507-8bit")
    with pytest.raises(ModelNotFoundError) as caught:
        catalog.resolve("Qwen3-30B-A3B-Instruct-2507")
    assert f"{OWN}/Qwen3-30B-A3B-Instruct-2507-4bit, other/qwen3-30b-a3b-instruct-2507-8bit" in caught.value.message

    unusable = cache_repository(tmp_path, "Qwen/Qwen3-30B-A3B-Instruct-2507")
    assert catalog.resolve("Qwen3-30B-A3B-Instruct-2507").id == "Qwen/Qwen3-30B-A3B-Instruct-2507"
    (unusable / "model.safetensors").unlink()
    assert catalog.resolve("Qwen3-30B-A3B-Instruct-2507-8bit").id == "other/qwen3-30b-a3b-instruct-2507-8bit"

    nowhere = catalog.resolve("unheard-of")
    assert (nowhere.id, nowhere.folder) == (f"{OWN}/unheard-of", None)


@pytest.mark.parametrize("name", ["", "a b", "a/b/c", "..", "a\0b", "/a\0b", "x" * 200])
def test_what_can_be_no_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelNotFoundError):
        Catalog(cache_dir=tmp_path).resolve(name)


def test_local_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "mine")
    catalog = Catalog(cache_dir=tmp_path / "cache")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in (str(folder), f"{folder}/", "~/mine", "./mine"):
        ref = catalog.resolve(name)
        assert (ref.id, ref.kind, ref.folder) == (str(folder), ModelKind.LOCAL, folder)
    with pytest.raises(ModelNotFoundError, match="no folder"):
        catalog.resolve("./other")
    with pytest.raises(ModelNotFoundError, match="no folder"):
        catalog.resolve("./mine/config.json")
    with pytest.raises(ModelNotFoundError, match="by path"):
        Catalog(cache_dir=tmp_path, allow_local_paths=False).resolve(str(folder))
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    with pytest.raises(UnsupportedModelError, match="no weights"):
        catalog.resolve(str(folder))


def test_mapped_names(tmp_path: Path) -> None:
    cache_repository(tmp_path, f"{OWN}/small-4bit")
    folder = write_model(tmp_path / "mine")
    pairs = [
        ("claude-*-small", "small"),
        ("claude-*", str(folder)),
        ("gpt-[45]o", "claude-x"),
        ("o/m", f"{OWN}/small-4bit"),
    ]
    catalog = Catalog(cache_dir=tmp_path, model_map=pairs, allow_local_paths=False)
    small = f"{OWN}/small-4bit"
    wanted = {
        "claude-1-small": small,
        "o/m": small,
        "small": small,
        "claude-1": str(folder),
        "claude-1-smaller": str(folder),
    }
    assert {name: catalog.resolve(name).id for name in wanted} == wanted
    assert catalog.resolve("gpt-4o").id == f"{OWN}/claude-x", "a name is mapped once"
    assert catalog.resolve("gpt-3o").id == f"{OWN}/gpt-3o"
    with pytest.raises(ModelNotFoundError, match="by path"):
        catalog.resolve(str(folder))


def test_aliases(tmp_path: Path) -> None:
    snapshot = cache_repository(tmp_path, f"{OWN}/small-4bit")
    folder = write_model(tmp_path / "mine")
    aliases = [
        ("fast", "small"),
        ("quick", "fast"),
        ("mine", str(folder)),
        ("not-here", "Some/Other"),
        ("gone", "/nowhere"),
        (f"{OWN}/small-4bit", "mine"),
    ]
    pairs = [("fast*", str(folder)), ("gpt-*", "quick"), ("small", "Some/Other")]
    catalog = Catalog(cache_dir=tmp_path, aliases=aliases, model_map=pairs, allow_local_paths=False)
    wanted = {
        "fast": f"{OWN}/small-4bit",
        "quick": f"{OWN}/small-4bit",
        "faster": str(folder),
        "gpt-5": f"{OWN}/small-4bit",
        "mine": str(folder),
        "not-here": "Some/Other",
        f"{OWN}/small-4bit": str(folder),
        "small": "Some/Other",
    }
    assert {name: catalog.resolve(name).id for name in wanted} == wanted
    with pytest.raises(ModelNotFoundError, match="no folder"):
        catalog.resolve("gone")

    listed = {model.alias: (model.ref.id, model.created) for model in catalog.available()[1:]}
    assert listed.keys() == {"fast", "quick", "mine", "not-here", f"{OWN}/small-4bit"}, (
        "all but the one without a model"
    )
    assert listed["quick"] == (f"{OWN}/small-4bit", int(snapshot.stat().st_mtime))
    assert catalog.find("not-here") == AvailableModel(catalog.resolve("not-here"), listed["not-here"][1], "not-here")
    assert catalog.find("faster").alias is None, "a name that a pattern gave is listed nowhere"
    with pytest.raises(ModelNotFoundError, match="not on this machine"):
        catalog.find("Some/Other")


def test_options_of_a_name(tmp_path: Path) -> None:
    cache_repository(tmp_path, f"{OWN}/small-4bit")
    code = {"config.json": '{"model_type": "x", "model_file": "x.py"}'}
    folder = write_model(tmp_path / "mine", files=code)
    aliases = [("calm", "small"), ("calmer", "calm"), ("long", "calm"), ("mine", str(folder)), ("gone", "/nowhere")]
    tables = [
        ("small", ModelOptions(requests=RequestDefaults(top_k=1, top_p=0.5), loading=Loading(pinned=True))),
        ("calm", ModelOptions(requests=RequestDefaults(top_k=2))),
        ("calmer", ModelOptions(requests=RequestDefaults(min_p=0.1))),
        ("long", ModelOptions(loading=Loading(context_length=9))),
        (str(folder), ModelOptions(loading=Loading(trust_remote_code=True))),
        ("gone", ModelOptions(loading=Loading(pinned=True))),
    ]
    catalog = Catalog(cache_dir=tmp_path, aliases=aliases, model_map=[("c-*", "calmer")], tables=tables)
    own, calm, calmer, long = (catalog.resolve(name) for name in (f"{OWN}/small-4bit", "calm", "c-3", "long"))
    assert {own.key, calm.key, calmer.key} == {(f"{OWN}/small-4bit", Loading(pinned=True))}, "one loaded model"
    assert own.options == tables[0][1] and own.name == calm.name == own.id
    assert calm.options.requests == RequestDefaults(top_k=2, top_p=0.5)
    assert calmer.options.requests == RequestDefaults(top_k=2, top_p=0.5, min_p=0.1)
    assert long.options.loading == Loading(context_length=9, pinned=True) and long.key != own.key
    assert (long.id, long.name) == (own.id, "long")
    assert catalog.resolve("mine").folder == folder and catalog.trusts(str(folder))
    with pytest.raises(UnsupportedModelError, match="Python code"):
        Catalog(aliases=aliases).resolve("mine")
    closed = Catalog(tables=tables, allow_local_paths=False)
    assert closed.resolve(str(folder)).folder == folder, "the operator has named it"
    assert catalog.pinned() == ["small", "calm", "calmer", "long", "gone"]


def test_the_map_may_give_a_built_in_model_and_take_its_name(tmp_path: Path) -> None:
    folder, demo = write_model(tmp_path / "mine"), write_model(tmp_path / "demo")
    given = Catalog(cache_dir=tmp_path, built_in={"demo": demo}, model_map=[("*", "demo")])
    assert given.resolve("gpt-4o").id == "demo"
    taken = Catalog(cache_dir=tmp_path, built_in={"demo": demo}, model_map=[("*", str(folder))])
    assert taken.resolve("demo").folder == folder


def test_an_incomplete_local_folder_says_what_is_missing(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "mine", shards=3)
    (folder / "model-00003-of-00003.safetensors").unlink()
    with pytest.raises(UnsupportedModelError, match=r"model-00003-of-00003\.safetensors is missing"):
        Catalog(cache_dir=tmp_path).resolve(str(folder))


def test_mlx_lms_model_types_are_known_with_their_aliases() -> None:
    types = known_model_types()
    assert set(ARCHITECTURES) <= types
    assert {"mistral", "kimi_k2"} <= types  # aliases
    assert not {"bert", "whisper", "clip"} & types


def test_code_is_trusted_by_model() -> None:
    catalog = Catalog(trust_remote_code=["org/mine", "/models/*"])
    assert [
        name for name in ("org/mine", "org/mine2", "Org/mine", "x/org/mine", "/models/a") if catalog.trusts(name)
    ] == [
        "org/mine",
        "/models/a",
    ]
    assert not Catalog().trusts("org/mine")
