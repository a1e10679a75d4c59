"""The ASGI application: routes, and what surrounds them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from mlx_server_nano.api.access import ApiKeys, WebPages
from mlx_server_nano.api.admin import Admin
from mlx_server_nano.api.chat import ChatDialect
from mlx_server_nano.api.completions import CompletionDialect
from mlx_server_nano.api.embeddings import EmbeddingDialect
from mlx_server_nano.api.envelope import ANTHROPIC_PATH
from mlx_server_nano.api.gate import Gate
from mlx_server_nano.api.messages import MessagesDialect
from mlx_server_nano.api.metrics import METRICS_PATH, Metrics
from mlx_server_nano.api.middleware import DOCS_PATH, HEALTH_PATH, Draining, Errors, RequestIds
from mlx_server_nano.api.models import ModelEndpoints
from mlx_server_nano.api.observe import Observe
from mlx_server_nano.api.openapi.endpoints import Description
from mlx_server_nano.api.responses import responses_routes
from mlx_server_nano.api.routing import Methods, unknown_path
from mlx_server_nano.api.run import GenerationEndpoint
from mlx_server_nano.api.status import Health
from mlx_server_nano.api.tokens import TokenDialect
from mlx_server_nano.api.web import WEB_PATH, WebPage
from mlx_server_nano.config import Settings

if TYPE_CHECKING:
    from mlx_server_nano.models.catalog import Catalog
    from mlx_server_nano.models.manager import Manager


def build_app(settings: Settings, manager: Manager, catalog: Catalog, gate: Gate) -> ASGIApp:
    """The manager is started and closed with the application's lifespan."""

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        await manager.start()
        try:
            yield
        finally:
            await manager.close()

    metrics = Metrics(manager)
    models = ModelEndpoints(manager, catalog)
    health = Health(manager, gate)
    admin = Admin(settings, manager, gate, health, metrics)
    description = Description()
    web = WebPage()
    chat = GenerationEndpoint(settings, manager, gate, ChatDialect().prepare)
    completions = GenerationEndpoint(settings, manager, gate, CompletionDialect().prepare)
    embeddings = GenerationEndpoint(settings, manager, gate, EmbeddingDialect().prepare)
    tokens = TokenDialect(manager)
    dialect = MessagesDialect()
    messages = GenerationEndpoint(settings, manager, gate, dialect.prepare)
    count = GenerationEndpoint(settings, manager, gate, dialect.prepare_count)
    routes = [
        Route("/", Methods({"GET": web.page})),
        Route(f"{WEB_PATH}{{name}}", Methods({"GET": web.file})),
        Route(HEALTH_PATH, Methods({"GET": health})),
        Route("/v1/chat/completions", Methods({"POST": chat})),
        Route("/v1/completions", Methods({"POST": completions})),
        Route("/v1/embeddings", Methods({"POST": embeddings})),
        Route("/tokenize", Methods({"POST": GenerationEndpoint(settings, manager, gate, tokens.tokenize)})),
        Route("/detokenize", Methods({"POST": GenerationEndpoint(settings, manager, gate, tokens.detokenize)})),
        Route("/apply-template", Methods({"POST": GenerationEndpoint(settings, manager, gate, tokens.apply_template)})),
        Route(ANTHROPIC_PATH, Methods({"POST": messages})),
        Route(f"{ANTHROPIC_PATH}/count_tokens", Methods({"POST": count})),
        *responses_routes(settings, manager, gate),
        Route("/admin/status", Methods({"GET": admin.status})),
        Route("/admin/load", Methods({"POST": admin.load})),
        Route("/admin/unload", Methods({"POST": admin.unload})),
        Route(METRICS_PATH, Methods({"GET": metrics})),
        Route("/openapi.json", Methods({"GET": description.document})),
        Route(DOCS_PATH, Methods({"GET": description.page})),
        Route("/v1/models", Methods({"GET": models.list})),
        Route("/v1/models/{name:path}", Methods({"GET": models.retrieve})),
    ]
    app: ASGIApp = Router(routes, redirect_slashes=False, default=unknown_path, lifespan=lifespan)
    app = Draining(app, gate)
    if settings.keys:
        app = ApiKeys(app, settings.keys)
    app = Errors(WebPages(app, settings))
    if settings.cors_origin:
        app = CORSMiddleware(
            app,
            allow_origins=settings.cors_origin,
            allow_methods=["*"],
            allow_headers=["*"],
            allow_private_network=True,
            expose_headers=["x-request-id", "request-id", "retry-after"],
        )
    return RequestIds(Observe(app, metrics, routes))
