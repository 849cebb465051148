"""The panel `Use`: a model asked a question, and a model served."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from drift.cli.ask_view import prompted, show_answers
from drift.cli.options import USE, AsJson, Overrides, command
from drift.cli.show import show_text
from drift.config.evaluate import EvaluateConfig
from drift.config.file import load_section
from drift.config.servers import VllmConfig
from drift.ground.errors import TERMINATED, ConfigError, DriftError

if TYPE_CHECKING:
    from drift.evaluate.asking import Answer, Dialogue
    from drift.inference.serving.command import Wanted

MODEL = "Directory, hub id, or registered NAME, NAME@ALIAS, NAME/VERSION"
DType = Literal["auto", "float32", "bfloat16", "float16"]
Store = Annotated[Path, typer.Option("--runs", help="Folder of the embedded MLflow store.")]


@command(USE)
def ask(
    model: Annotated[list[str], typer.Option(help=f"{MODEL}; several answer side by side.")],
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="Left out: a dialogue, or what standard input has.")
    ] = None,
    image: Annotated[list[Path] | None, typer.Option(help="A picture; several in their order.")] = None,
    url: Annotated[str | None, typer.Option(help="Ask an OpenAI-compatible server; --model is its name there.")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="Environment variable with the server's key.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Ask as the section evaluate of this file does.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Of an answer with its thinking; default: 2048.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Default: greedy.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of what is drawn.")] = None,
    dtype: Annotated[DType | None, typer.Option(help="Default: the checkpoint's own.")] = None,
    runs: Store = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Ask a model about pictures: one answer, or a dialogue; as an evaluation asks, thinking apart from the answer."""
    if api_key_env and not url:
        raise ConfigError("--api-key-env: is for a server; give its --url")
    from drift.evaluate.asking import NO_BENCHMARK, read_images, require_places

    images = read_images(image or [])
    talks = question is None and sys.stdin.isatty()
    if not talks:
        question = sys.stdin.read().strip() if question is None else question
        require_places(question, images)
    given: dict[str, Any] = {
        "endpoint": {"base_url": url, "api_key_env": api_key_env} if url else None,
        "engine": "transformers",
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "seed": seed,
        "dtype": dtype,
        **({} if config else NO_BENCHMARK),
    }
    section = load_section(EvaluateConfig, "evaluate", config, (), given)
    if talks:
        _talk(section, model, images, runs, as_json)
    else:
        show_answers([_answer(section, one, question or "", images, runs) for one in model], as_json)


def _answer(section: EvaluateConfig, model: str, question: str, images: Sequence[bytes], runs: Path) -> Answer:
    """One model after the other: two need not fit into memory."""
    from drift.evaluate.asking import dialogue

    with dialogue(section, model, runs) as opened:
        return opened.ask(question, images)


def _talk(section: EvaluateConfig, models: list[str], images: list[bytes], runs: Path, as_json: bool) -> None:
    """Question by question until the end of the input. An error of one, or Ctrl-C meanwhile, ends that one alone."""
    from drift.evaluate.asking import dialogue

    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(dialogue(section, model, runs)) for model in models]
        for line in prompted():
            try:
                images = _said(line.strip(), opened, images, as_json)
            except DriftError as error:
                sys.stderr.write(f"drift: {' '.join(str(error).split())}\n")
            except KeyboardInterrupt:
                sys.stderr.write("drift: stopped; ask again\n")


def _said(line: str, opened: Sequence[Dialogue], images: list[bytes], as_json: bool) -> list[bytes]:
    """What a line of a dialogue does; the images that the next question has."""
    from drift.evaluate.asking import read_images, require_places

    word, _, rest = line.partition(" ")
    if word == "/image":
        return [*images, *read_images([Path(rest.strip()).expanduser()])]
    if word == "/new":
        for one in opened:
            one.forget()
        return []
    if not line:
        return images
    require_places(line, images)
    show_answers([one.ask(line, images) for one in opened], as_json)
    return []


@command(USE)
def serve(
    model: Annotated[str, typer.Option(help=f"{MODEL}.")],
    overrides: Overrides = None,
    host: Annotated[str, typer.Option(help="Address to listen at; another than loopback needs VLLM_API_KEY.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    dtype: Annotated[DType, typer.Option(help="auto: vLLM makes float16 of float32.")] = "auto",
    only_print: Annotated[bool, typer.Option("--print", help="Print the command; start nothing.")] = False,
    kserve: Annotated[bool, typer.Option("--kserve", help="Print an InferenceService for KServe instead.")] = False,
    storage_uri: Annotated[str | None, typer.Option(help="Where KServe finds the files, such as s3://…")] = None,
    service_account: Annotated[str | None, typer.Option(help="KServe's, whose secrets open the bucket.")] = None,
    cpu: Annotated[str | None, typer.Option(help="Of KServe's pod; default: 4.")] = None,
    memory: Annotated[str | None, typer.Option(help="Of KServe's pod; default: 32Gi.")] = None,
    runs: Store = Path("runs"),
) -> None:
    """Serve a model with vLLM until Ctrl-C, or print how. KEY=VALUE are those of `evaluate.vllm`."""
    from drift.inference.serving.command import printed, wanted

    pod = {"storage_uri": storage_uri, "service_account": service_account, "cpu": cpu, "memory": memory}
    if not kserve and (given := next((name for name, value in pod.items() if value is not None), None)):
        raise ConfigError(f"--{given.replace('_', '-')}: is for --kserve; add that, or leave it out")
    config = load_section(VllmConfig, "serve", None, overrides or (), {})
    asked = wanted(model, runs, config, dtype=dtype, host=host, port=port)
    if kserve:
        from drift.inference.serving.kserve import Pod, inference_service

        settings = {name: value for name, value in pod.items() if value is not None and name != "storage_uri"}
        show_text(inference_service(asked, storage_uri, Pod(**settings)).rstrip())
    elif only_print:
        show_text(printed(asked))
    else:
        _serve(asked)


def _serve(asked: Wanted) -> None:
    from drift.inference.serving.service import serve as step

    def ready(url: str) -> None:
        show_text(f"{asked.name} is served at {url}; `drift ask --url {url} --model {asked.name}` asks it")

    with _ended_by_signals():
        step(asked, ready)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Ctrl-C is how a server is ended, and no error; SIGTERM ends it in good order too."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(TERMINATED))
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit from None
