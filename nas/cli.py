"""The command line: one function for each command, and what all commands have in common."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.common.boundary import reading
from nas.common.errors import ArgumentError, NasError
from nas.common.fast_imports import import_frameworks
from nas.common.interrupt import Interrupted, ending_by_exception
from nas.common.output import OutputStream, ReaderGone, complain, resilient_output, visible
from nas.common.shortage import shortage
from nas.run.arguments import parse_budgets, parse_memory_budget, parse_pick
from nas.run.dashboard_command import show_dashboard
from nas.run.model_parser import check_choice
from nas.run.parser import build_parser
from nas.run.parser_parts import Command
from nas.run.program_name import command_line

if TYPE_CHECKING:
    from nas.config.overrides import Overrides
    from nas.run.executors import ExecutionOptions


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The words of the command line; None for those of this process.

    Returns:
        The exit status: 0, 1 if the reader of standard output has gone, 2 for a user error or if standard output cannot
        take the answer, 3 if rows of a table could not be predicted and were kept, 130 after Ctrl-C.
    """
    # Threads that wait for others sleep instead of spinning: workers and driver share the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = sys.argv[1:] if arguments is None else arguments
    with resilient_output() as (output, errors):
        try:
            options = _parse(words, output)
            return _run(options, output, errors)
        except ReaderGone:
            return 1
        except NasError as error:
            complain(f"error: {_on_one_line(str(error), words)}")
        except OSError as error:
            place = error.filename if error.filename is not None else "a file"
            complain(f"error: {_on_one_line(str(place), words)}: {error.strerror or error}")
        return 2


def _parse(words: Sequence[str], output: OutputStream) -> argparse.Namespace:
    """Parse the command line; ends the program after a help text or an error."""
    try:
        return build_parser(_HANDLERS).parse_args(words)
    except SystemExit:
        output.check()
        raise


def _run(options: argparse.Namespace, output: OutputStream, errors: OutputStream) -> int:
    """Run the command and return the exit status."""
    command: Command = options.command
    _check_paths(options)
    if command in _ANSWERING and not (command is _predict and options.output is not None):
        output.check()
    else:  # its result is in files
        output.go_on_with(errors)
    try:
        with ending_by_exception():
            status = command(options) or 0
    except (KeyboardInterrupt, Interrupted):
        complain(f"Interrupted; everything finished is saved{_resume_hint(options)}")
        return 130
    except Exception as error:
        lack = None if isinstance(error, NasError) else shortage(error)
        if lack is None:
            raise
        complain(f"error: {lack}{_resume_hint(options)}")
        return 2
    output.check()
    return status


def _check_paths(options: argparse.Namespace) -> None:
    """Check that the folders of models and runs have names that the libraries for weights and tokenizers can open.

    Raises:
        ArgumentError: If the name of one is not UTF-8, or the working directory was deleted.
    """
    try:
        os.getcwd()
    except FileNotFoundError as error:  # oneMKL would end the process
        raise ArgumentError("the working directory: was deleted; expected an existing one (cd)") from error
    for name in ("run_dir", "output", "model", "cache_dir"):
        path: Path | None = getattr(options, name, None)
        if path is not None:
            with reading(path, expected="a path in UTF-8", error=ArgumentError, problem="cannot be used"):
                str(path.absolute()).encode()


def _on_one_line(message: str, words: Sequence[str]) -> str:
    """Return a message in which the words of the command line that it quotes contain no line ends."""
    for word in words:
        for part in (word, word.partition("=")[2]):
            if "\n" in part:
                message = message.replace(part, part.replace("\n", "\\n"))
    return message


def _resume_hint(options: argparse.Namespace) -> str:
    """Return how an interrupted command is resumed; empty where it has saved nothing."""
    if options.command in (_compare, _ablate) or (options.command is _predict and options.output is not None):
        return ". Resume with the same command"
    directory = getattr(options, "run_dir", None)
    if directory is None or not (directory / "config.yaml").exists():
        return ""
    return f". Resume with: {command_line('resume', directory)}"


def _overrides(options: argparse.Namespace) -> "Overrides":
    """Return the values that replace those of the file."""
    time_seconds, trials = parse_budgets(getattr(options, "budget", None) or ())
    memory_bytes = parse_memory_budget(options.memory_budget)
    from nas.config.overrides import Overrides

    return Overrides(
        time_seconds=time_seconds,
        trials=trials,
        memory_bytes=memory_bytes,
        strategy=getattr(options, "strategy", None),
        seed=getattr(options, "seed", None),
        deterministic=getattr(options, "deterministic", None),
        warm_start=getattr(options, "warm_start", None),
        precision=getattr(options, "precision", None),
        **_places(options),
    )


def _places(options: argparse.Namespace) -> dict[str, Any]:
    names = ("data", "images", "image_encoder", "text_encoder")
    return {name: getattr(options, name, None) for name in names}


def _execution(options: argparse.Namespace) -> "ExecutionOptions":
    from nas.run.executors import ExecutionOptions

    return ExecutionOptions(
        worker_count=options.workers,
        cache_directory=options.cache_dir,
        ray_address=options.ray_address,
        storage=getattr(options, "storage", None),
        verify=options.verify,
        accepts_changes=getattr(options, "accept_changed", False),
        device=options.device,
        log_to=tuple(getattr(options, "log_to", ())),
    )


def _space(options: argparse.Namespace) -> None:
    overrides = _overrides(options)
    from nas.config.load import load_arms

    arms = load_arms(options.space)  # most mistakes are found here, so before the imports that take seconds
    import_frameworks()
    from nas.common.devices import check_kind
    from nas.common.progress import build_reporter
    from nas.run.arms.describe import describe_arms
    from nas.run.executors import ExecutionOptions

    check_kind(options.device)
    device = ExecutionOptions(device=options.device).workers_device
    with build_reporter() as reporter:
        describe_arms(arms, overrides, str(options.space), reporter, device)
        reporter.note(f"Images are not read here; check them with: {command_line('check', options.space)}")


def _init(options: argparse.Namespace) -> None:
    from nas.run.init_command import init

    init(options)


def _check(options: argparse.Namespace) -> None:
    overrides = _overrides(options)
    from nas.config.load import load_arms

    arms = load_arms(options.space)  # before the imports that take seconds
    import_frameworks()
    from nas.common.files import default_cache_directory
    from nas.common.progress import build_reporter
    from nas.run.arms.describe import for_each_arm
    from nas.run.check_search import check_arm

    cache, source = options.cache_dir or default_cache_directory(), str(options.space)
    with build_reporter() as reporter:
        for_each_arm(arms, overrides, reporter, lambda arm: check_arm(arm, source, cache, reporter))
        reporter.note(f"No problem found. Start the search with: {command_line('search', options.space)}")


def _search(options: argparse.Namespace) -> None:
    overrides = _overrides(options)
    from nas.config.load import load_arms

    config = load_arms(options.space)[0].config  # before the imports that take seconds
    from nas.common.progress import build_reporter
    from nas.run.first_line import announce

    if options.run_dir is None:
        config = overrides.apply(config)
        options.run_dir = Path("runs") / f"{config.name}-{config.seed}"
    with build_reporter() as reporter:
        is_announced = announce(options.run_dir, reporter)
        import_frameworks()
        from nas.run.commands import start

        start(options.space, options.run_dir, overrides, _execution(options), reporter, is_announced=is_announced)


def _resume(options: argparse.Namespace) -> None:
    overrides = _overrides(options)
    from nas.common.progress import build_reporter
    from nas.run.first_line import announce_resumed

    with build_reporter() as reporter:
        announce_resumed(options.run_dir, reporter)
        import_frameworks()
        from nas.run.commands import resume

        resume(options.run_dir, overrides, _execution(options), reporter)


def _export(options: argparse.Namespace) -> None:
    how = parse_pick(options.pick or ["answer"])
    import_frameworks()
    from nas.config.overrides import Overrides
    from nas.run.export_command import export

    export(options, how, Overrides(**_places(options)))


def _compare(options: argparse.Namespace) -> None:
    overrides = _overrides(options)
    from nas.config.load import load_config

    config = load_config(options.space)  # before the imports that take seconds
    import_frameworks()
    from nas.run.comparison.command import compare_families

    compare_families(options, config, overrides, _execution(options))


def _ablate(options: argparse.Namespace) -> None:
    limit, options.budget = parse_budgets(options.budget or ()), None  # of the ablation, not of a search
    overrides = _overrides(options)
    from nas.config.load import load_config

    config = load_config(options.space)
    import_frameworks()
    from nas.run.ablation.command import ablate_architecture

    ablate_architecture(options, config, limit, overrides, _execution(options))


def _evaluate(options: argparse.Namespace) -> None:
    import_frameworks()
    from nas.run.evaluate_command import evaluate

    evaluate(options)


def _predict(options: argparse.Namespace) -> int:
    check_choice(options)
    import_frameworks()
    from nas.run.prediction.command import predict_one, predict_rows

    return predict_one(options) if options.data is None else predict_rows(options)


def _report(options: argparse.Namespace) -> None:
    import_frameworks()
    from nas.run.html_report.command import report

    print(visible(f"Report: {report(options)}"))


def _list(options: argparse.Namespace) -> None:
    import_frameworks()
    from nas.run.overview import list_runs

    print(visible(list_runs(options.folder)))


def _diff(options: argparse.Namespace) -> None:
    import_frameworks()
    from nas.run.overview import compare_runs

    print(visible(compare_runs(options.first, options.second)))


def _clean(options: argparse.Namespace) -> int:
    from nas.run.clean_command import clean

    return clean(options)


_HANDLERS: Mapping[str, Command] = {
    "init": _init,
    "check": _check,
    "space": _space,
    "search": _search,
    "resume": _resume,
    "export": _export,
    "evaluate": _evaluate,
    "predict": _predict,
    "compare": _compare,
    "ablate": _ablate,
    "report": _report,
    "list": _list,
    "diff": _diff,
    "clean": _clean,
    "dashboard": show_dashboard,
}

_ANSWERING = (_init, _check, _space, _evaluate, _predict, _list, _diff, _clean, show_dashboard)
"""The commands whose result is only printed."""
