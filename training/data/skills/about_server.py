"""What people ask about the server, and the facts."""

from __future__ import annotations

from typing import Final

from training.data.skills.topics import ASK, SERVER, TELL, Topic

PYTHON: Final = """```python
from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="unused")
reply = client.chat.completions.create(
    model="demo", messages=[{"role": "user", "content": "Hello"}]
)
print(reply.choices[0].message.content)
```"""
CURL: Final = """```bash
curl http://127.0.0.1:8000/v1/chat/completions \\
  -H 'Content-Type: application/json' \\
  -d '{"model": "demo", "messages": [{"role": "user", "content": "Hello"}]}'
```"""

TOPICS: Final = (
    Topic(
        (
            ASK
            + "what is [MLX Server Nano|this server|this project|this thing|this software|MLX server][| for| about| good for]?",
            ASK + "what does " + SERVER + " do[| exactly| for me]?",
            TELL + "[about|what is] " + SERVER,
        ),
        ("MLX Server Nano is a lightweight server with OpenAI's API for language models on MLX.",),
        ("OpenAI", "MLX"),
        "The user asks about the server.",
    ),
    Topic(
        (
            ASK
            + "[what|which] [endpoints|routes|paths|URLs|APIs] [does "
            + SERVER
            + " have|are there|do you have|can I call"
            "|do you offer|are available|does " + SERVER + " offer|does it serve][| here| now]?",
            TELL
            + "[the endpoints|which endpoints there are|all endpoints|the routes|the API endpoints|what endpoints you have]",
            "[list|show|name] [|me ][the|all|all the|your] [endpoints|routes|API endpoints|API routes|paths][| please| of "
            + SERVER
            + "]",
        ),
        (
            "The main endpoints are POST /v1/chat/completions, /v1/completions, /v1/responses, /v1/messages and "
            "/v1/embeddings, and GET /v1/models and /health.",
        ),
        ("/v1/chat/completions", "/v1/models", "/health"),
        "The user asks for the endpoints. I name the main ones.",
    ),
    Topic(
        (
            ASK + "how [do I|can I|should I|would I|to] [use|point|connect|configure|set up|call you with|try] "
            "[the OpenAI client|an OpenAI client|the openai package|openai in Python|the OpenAI SDK|a Python "
            "client|the OpenAI library]"
            "[| with " + SERVER + "| here| at " + SERVER + "| to " + SERVER + "]?",
            TELL
            + "[a Python example|how to use the OpenAI client|some Python code|an example in Python|the Python code"
            "|how to call you from Python|how to point an OpenAI client here]",
            "[show|give|write] me [a Python example|the Python client code|an OpenAI client example|Python code to call you]"
            "[| please| for " + SERVER + "]",
        ),
        ("Point the client's base_url at the server:\n\n" + PYTHON,),
        ("http://127.0.0.1:8000/v1", "OpenAI("),
        "The user wants the Python client. I show base_url and a call.",
    ),
    Topic(
        (
            ASK
            + "how [do I|can I|to] [call|use|query|try|test|reach] [you|the API|the server|this] [with|using|through|by] curl?",
            TELL + "[a curl example|how to use curl|a curl command|the curl call]",
            "[show|give|write] me [a curl example|the curl command|a curl call|a curl request][| please| for "
            + SERVER
            + "| now]",
        ),
        ("Send a POST request to /v1/chat/completions:\n\n" + CURL,),
        ("curl http://127.0.0.1:8000/v1/chat/completions", '"model": "demo"'),
        "The user wants a curl command.",
    ),
    Topic(
        (
            ASK
            + "[what is|which is|what's] the [base URL|base url|base_url|API URL|server's URL|server's address|address]"
            "[| here| of " + SERVER + "| for clients| to use]?",
            ASK
            + "[where|on which port|on what port|at which address] [does "
            + SERVER
            + " listen|do you listen|can I reach you"
            "|are you running|does it run]?",
            TELL + "[the base URL|the port|the address of " + SERVER + "|where you listen]",
        ),
        ("Use http://127.0.0.1:8000/v1 as the base URL, unless the server was started with another port.",),
        ("http://127.0.0.1:8000/v1",),
        "The user asks for the base URL.",
    ),
    Topic(
        (
            ASK
            + "[do I need|must I send|is there|do you need|what about] an [API key|api key|api_key|OpenAI key][| here| at all]?",
            ASK
            + "[what|which] [API key|api_key|key|token] [do I use|should I use|must I send|is needed|is right][| here]?",
            TELL + "[which API key I need|if I need an API key|what to put as the API key|about the API key]",
        ),
        ("Any API key works, unless the server was started with --api-key.",),
        ("--api-key",),
        "The user asks about the API key.",
    ),
    Topic(
        (
            ASK
            + "how [do I|can I|to] [load|use|run|serve|get|start|download|try] [another model|a larger model|a bigger model"
            "|a real model|other models|Qwen3|Llama|my own model|a model from the Hub][| here| instead| with "
            + SERVER
            + "]?",
            ASK
            + "[which|what] [other |]models [can I use|can you run|are supported|does "
            + SERVER
            + " support][| here]?",
            TELL
            + "[how to load another model|how to use a bigger model|how to get a larger model|which models I can use]",
        ),
        (
            "Put a Hub name such as mlx-community/Qwen3-4B-4bit in the model field: the server downloads and loads it. "
            "mlx-server-nano pull fetches it beforehand.",
        ),
        ("mlx-community/", "pull"),
        "The user wants another model. The model field takes a Hub name.",
    ),
    Topic(
        (
            ASK
            + "[how do I|how can I|how to|can I] [list|see|find|show] [the|all|available|the loaded|installed|which] models"
            "[| here| I have| on " + SERVER + "]?",
            ASK
            + "[which|what] models [are there|are available|are loaded|are installed|do you have|have I got][| here| now]?",
        ),
        ("GET /v1/models lists the models that are on this machine. Any Hub name works too: it is downloaded.",),
        ("/v1/models",),
        "The user asks for the list of models.",
    ),
    Topic(
        (
            ASK
            + "how [do I|can I|to] [check|know|see|test] [if|whether] [the server|it|this] [runs|works|is up|is healthy]?",
            ASK
            + "is [the server|everything|it|this server] [running|up|healthy|ok|fine|working][| now| today| properly]?",
            "[|is there a |where is the |show me the ][health check|health endpoint|status endpoint][|?| please]",
        ),
        ("GET /health says whether the server is healthy. Since I answer, it is running.",),
        ("/health",),
        "The user asks about the server's health.",
    ),
    Topic(
        (
            ASK + "[do you|can you|does " + SERVER + "|can " + SERVER + "] [support|do|handle|understand|have] "
            "[streaming|stream mode|streamed answers|SSE|server-sent events][| too| here]?",
            ASK
            + "how [do I|can I|to] [stream|get streaming|switch on streaming|get a stream][| answers| here| with you]?",
        ),
        ('Yes. Send "stream": true and the answer arrives in pieces.',),
        ('"stream": true',),
        "The user asks about streaming.",
    ),
    Topic(
        (
            ASK
            + "how [do I|can I|to] [turn|switch] [off|on] [thinking|the thinking|your thinking|reasoning|the think block]?",
            ASK
            + "how [do I|can I|to] [disable|enable|stop|avoid|hide] [thinking|the thinking|reasoning|the think block][| here]?",
            ASK + "[can you|do you] [think|reason][| first| before you answer| step by step]?",
        ),
        (
            'I think first by default. "reasoning_effort": "none" turns it off, and so does '
            '"chat_template_kwargs": {"enable_thinking": false}.',
        ),
        ("reasoning_effort", "enable_thinking"),
        "The user asks about thinking. It is reasoning_effort or enable_thinking.",
    ),
    Topic(
        (
            ASK + "[do you|can you|does " + SERVER + "] [support|do|use|know|handle|call|understand] "
            "[tools|tool calls|function calling|functions|tool calling|function calls][| too| here]?",
            ASK
            + "how [do I|can I|to] [give you|pass|use|define|send] [tools|functions|a tool|a function][| here| with you]?",
        ),
        ('Yes. Send your functions in "tools" and I answer with tool_calls.',),
        ("tool_calls",),
        "The user asks about tools.",
    ),
    Topic(
        (
            ASK + "[can I use|do you support|does it work with|is there support for|how do I use|what about] "
            "[Anthropic's client|the Anthropic SDK|the anthropic package|Claude Code|the Messages API|the "
            "messages endpoint][| here| too]?",
        ),
        ("Yes. Anthropic's clients use POST /v1/messages; give them http://127.0.0.1:8000 as the base URL.",),
        ("/v1/messages",),
        "The user asks about Anthropic's API.",
    ),
    Topic(
        (
            ASK + "how [do I|can I|to] [change|set|choose] the [port|address|host][| here| of " + SERVER + "]?",
            ASK
            + "[can I|how do I|how can I] [use|run it on|listen on|start it on] [another|a different] port[| here]?",
            TELL + "[how to change the port|how to use another port|how to set the host]",
        ),
        ("Start it with --port 9000, for example. --host 127.0.0.1 keeps it to this machine.",),
        ("--port", "--host"),
        "The user wants another port. It is --port.",
    ),
    Topic(
        (
            ASK
            + "[are you|do you run|does this run|is this|do you work] [offline|locally|local|private|on my machine][| really]?",
            ASK
            + "[does|do] [my data|my messages|anything|what I write] [leave|get out of] [this machine|my computer]?",
            ASK + "[do you|does " + SERVER + "] [need|use|have] [the internet|a network|internet access|a connection]?",
        ),
        ("Everything runs on this machine. Only downloading a model needs the network.",),
        ("this machine", "network"),
        "The user asks about the network. All runs here.",
    ),
    Topic(
        (
            ASK
            + "how [do I|can I|to] [get|force|request|have] [JSON|JSON output|structured output|valid JSON|a JSON answer"
            "|output that fits a schema][| here| from you| always]?",
            ASK
            + "[do you|can you|does "
            + SERVER
            + "] [support|know|have|do] [JSON mode|JSON schemas|structured output"
            "|structured outputs|a JSON schema][| too| here]?",
            TELL + "[how to get JSON|about structured output|how JSON schemas work here]",
        ),
        ('Send "response_format" with type "json_schema" and your schema: the answer then always fits it.',),
        ("response_format", "json_schema"),
        "The user wants JSON. It is response_format.",
    ),
    Topic(
        (
            ASK + "[when|how] [is a model|are models|do you get|is this model] unloaded[| again| here]?",
            ASK + "how [do I|can I|to] [free|save|give back] [memory|RAM][| again| here]?",
            TELL + "[when models are unloaded|about the idle time-out|how memory is freed]",
        ),
        ("A model that nobody uses for 300 seconds is unloaded. --idle-timeout changes that.",),
        ("300 seconds", "--idle-timeout"),
        "The user asks about unloading. It is the idle time-out.",
    ),
    Topic(
        (
            ASK
            + "where [is|do I find|can I see|can I read] [your reasoning|your thinking|your thoughts|the reasoning|the thinking]"
            "[| in the answer| in the response| here]?",
            ASK + "[which|what] field [has|holds|contains] [the|your] [reasoning|thinking|thoughts]?",
        ),
        ("In reasoning_content, beside content.",),
        ("reasoning_content",),
        "The user looks for my reasoning. It is in reasoning_content.",
    ),
    Topic(
        (
            ASK + "[can I use|do you support|does it work with|is there support for|how do I use|what about] "
            "[Codex|the Responses API|Codex CLI|the responses endpoint|OpenAI's Responses|the Agents SDK][| here| too]?",
        ),
        (
            "Yes. Clients of the Responses API use POST /v1/responses; give them http://127.0.0.1:8000/v1 as the base URL.",
        ),
        ("/v1/responses",),
        "The user asks about the Responses API.",
    ),
    Topic(
        (
            ASK
            + "[do you|can you|does "
            + SERVER
            + "|can I] [do|make|support|get|compute|offer] [embeddings|vectors|an embedding"
            "|text embeddings][| too| here]?",
        ),
        ("Yes. POST /v1/embeddings gives vectors for texts.",),
        ("/v1/embeddings",),
        "The user asks about embeddings.",
    ),
    Topic(
        (
            ASK
            + "[which|what] [settings|flags|options|command line options] [are there|does "
            + SERVER
            + " have|can I set|exist][| here]?",
            TELL + "[the settings|all settings|the flags|which options there are|how to configure the server]",
        ),
        ("mlx-server-nano --help lists all settings.",),
        ("--help",),
        "The user asks for the settings. --help lists them.",
    ),
    Topic(
        (
            ASK
            + "[what|which] [licence|license] [do you have|are you under|does this have|is this under|applies][| here]?",
            ASK + "[are you|is " + SERVER + "] [free|open source|free software|open-source][| to use]?",
        ),
        ("MLX Server Nano is open source, under the MIT licence.",),
        ("MIT",),
        "The user asks about the licence: MIT.",
    ),
)
