"""The command line. Every command says what to type next; exit codes: 0 fine, 1 the gate fails, 2 wrong input, 3 Carbide failed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from carbide._visible import visible

HELP = """Audit, harden, prove and guard machine-learning models.

Start with [bold]carbide demo patients[/bold], open the report it names, then write a plan of your own:
[bold]carbide audit plan.yaml[/bold] measures how far attackers get, [bold]carbide harden plan.yaml[/bold] makes a better model and says what it cost.
"""

app = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode="rich", add_completion=False, pretty_exceptions_enable=False)
space_app = typer.Typer(help="What one row may look like and what an attacker may change.", no_args_is_help=True)
guard_app = typer.Typer(help="Serve a hardened model behind its policy.", no_args_is_help=True)
app.add_typer(space_app, name="space")
app.add_typer(guard_app, name="guard")

STORIES = ("fraud", "patients", "images")
STOPPED = 130  # the exit code after Ctrl-C
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run; the same folder goes on where a stopped run was.")]
Workers = Annotated[int | None, typer.Option("--workers", "-j", min=1, help="Processes to use; all cores when left out.")]
Allow = Annotated[
    list[str] | None, typer.Option("--allow", help="A function (package.module:name) or address that the stored model may call; may be repeated.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on the terminal.")]
Trust = Annotated[bool, typer.Option("--trust", help="Allow pickled model files, after a scan. Only for files you made yourself.")]


def say(words: str = "") -> None:
    """One line for the user on standard output."""
    typer.echo(visible(words))


@app.command()
def demo(
    story: Annotated[str | None, typer.Argument(help="fraud, patients or images; all three when left out.")] = None,
    out: Out = None, workers: Workers = None, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Run the built-in stories: train, audit, harden, audit again, prove, report. Offline; nothing leaves this machine."""
    from carbide.stories import story_plan

    if story is not None and story not in STORIES:
        _fail_input(f"story {story!r} is not known; choose {', '.join(STORIES)}")
    pages = []
    for name in [story] if story else STORIES:
        folder = (out or Path("runs")) / f"demo-{name}" if story is None or out is None else out
        report = _run(story_plan(name), folder, ("audit", "harden", "prove"), workers, quiet, trust=False)
        say(str(report))
        pages.append(folder / "report.html")
        say()
    say("Open in a browser: " + "  ".join(str(page) for page in pages))
    say(f"Next: copy {pages[0].parent / 'plan.yaml'}, put your own model and data in it, and run: carbide harden plan.yaml")


@app.command()
def audit(
    target: Annotated[Path, typer.Argument(help="A plan (.yaml), or a model file together with --data.")],
    data: Annotated[str | None, typer.Option("--data", help="Data of the model file, or a built-in case.")] = None,
    label: Annotated[str | None, typer.Option("--label", help="Label column of the data.")] = None,
    eps: Annotated[str | None, typer.Option("--eps", help="Size of an Linf change, e.g. 8/255.")] = None,
    out: Out = None, workers: Workers = None, quiet: Quiet = False, trust: Trust = False,
) -> None:  # fmt: skip
    """Measure how far real attackers get against a model."""
    plan: Any = target
    if target.suffix.lower() not in (".yaml", ".yml"):
        if data is None:
            _fail_input(f"{target} is a model file, so its data are needed; add --data FILE, or name a plan (.yaml)")
        from carbide.stories import draft_plan

        plan = draft_plan(target, str(data), label=label, eps=eps)
    _finish(_run(plan, out, ("audit",), workers, quiet, trust), plan)


@app.command()
def harden(
    plan: Annotated[Path, typer.Argument(help="The plan (.yaml).")], out: Out = None, workers: Workers = None, quiet: Quiet = False, trust: Trust = False,
) -> None:  # fmt: skip
    """Audit, train a model that attackers get less far against, and audit that one: what was gained and what it cost."""
    _finish(_run(plan, out, ("audit", "harden", "prove"), workers, quiet, trust), plan)


@app.command()
def prove(
    target: Annotated[Path, typer.Argument(help="A plan (.yaml), a net (.onnx, .onnx.gz) together with a property, or a list of pairs (.csv).")],
    unsafe: Annotated[Path | None, typer.Argument(metavar="[PROPERTY]", help="What must not happen (.vnnlib, .vnnlib.gz), for a net.")] = None,
    timeout: Annotated[float | None, typer.Option("--timeout", help="Seconds for a pair (60), or the most for each line of a list.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Verdicts of pairs as JSON.")] = False,
    out: Out = None, workers: Workers = None, quiet: Quiet = False, trust: Trust = False,
) -> None:  # fmt: skip
    """Audit, and give certificates: what no attacker of the stated kind can do. Or decide whether a net or a tree model has a property.

    A plan's [bold]properties[/bold] say what a tree model must do on every row there is: [bold]proven[/bold], [bold]broken[/bold] by two rows that are shown,
    or [bold]unknown[/bold]. Audits and hardening decide them too; here the exit code is 1 unless all are proven.

    With a net and a property (ONNX and VNN-LIB files, as verification competitions give them) the verdict is [bold]unsat[/bold]: proven, no input of
    the property's box does what it forbids; [bold]sat[/bold]: here is one that does; [bold]timeout[/bold] or [bold]unknown[/bold]: open. A list has
    lines [bold]net.onnx,property.vnnlib,seconds[/bold].

    Exit codes: 0 every property is proven (or the plan's gate holds), 1 a counterexample was found, a property is open or the gate fails,
    2 the input is wrong, 3 Carbide failed.
    """
    name = target.name.lower()
    if name.endswith((".yaml", ".yml")):
        if unsafe is not None or timeout is not None or as_json:
            _fail_input(f"{target} is a plan, which takes no property, --timeout or --json; name a net (.onnx) with them")
        _prove_plan(target, out, workers, quiet, trust)
        return
    _prove_pairs(target, unsafe, timeout, as_json, out, quiet)


def _prove_plan(target: Path, out: Path | None, workers: int | None, quiet: bool, trust: bool) -> None:
    report = _run(target, out, ("audit", "prove"), workers, quiet, trust)
    _finish(report, target)
    if not all(line.verdict == "proven" for line in report.results.plain.properties):
        raise typer.Exit(1)


def _prove_pairs(target: Path, unsafe: Path | None, timeout: float | None, as_json: bool, out: Path | None, quiet: bool) -> None:
    from carbide._pairs import TIMEOUT, Pair, exit_code, folder_of, prove_pairs, read_pairs, result_file, summary

    if timeout is not None and not 0 < timeout < float("inf"):
        _fail_input(f"timeout is {timeout}; give a number of seconds > 0")
    if target.suffix.lower() == ".csv":
        if unsafe is not None:
            _fail_input(f"{target} is a list of pairs, so {unsafe} is one too many; put it into the list")
        pairs = read_pairs(target, most=timeout)
    elif unsafe is None:
        _fail_input(f"{target} is no plan (.yaml) and no list (.csv), and no property is named; give a net and a property (.vnnlib)")
    else:
        pairs = [Pair(net=target, unsafe=unsafe, timeout=timeout or TIMEOUT)]
    single = target.suffix.lower() != ".csv"
    folder = out or folder_of(pairs, f"prove-{target.name.split('.')[0]}")
    found = []
    for report in prove_pairs(pairs, out=folder, quiet=True if quiet else None):
        if single and report.verdict == "error":
            _fail_input(report.note)
        found.append(report)
        if not as_json:
            say(str(report))
    if as_json:
        import json

        say(json.dumps([{**report.to_dict(), "seconds": round(report.seconds, 3)} for report in found], indent=1))
    else:
        for words in found[0].assumptions if single else ():
            say(f"Assumed: {words}")
        if single:
            say(f"Result file: {result_file(folder, 1, pairs[0])}")
        else:
            _table(found)
            say(summary(found))
            say(f"Result files: {folder / 'results'}, all verdicts: {folder / 'verdicts.json'}")
    if exit_code(found):
        raise typer.Exit(exit_code(found))


def _table(found: list[Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("net", "property", "verdict", "how", "parts", "seconds")
    for report in found:
        how = report.note if report.verdict == "error" else report.how
        table.add_row(Path(report.net).name, Path(report.unsafe).name, report.verdict, how, f"{report.parts:,}", f"{report.seconds:.1f}")
    Console().print(table)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="The folder of a finished run.")]) -> None:
    """Write the report of a finished run again, and say in a few lines what it found."""
    from carbide.verify import rewrite_report

    results, page = rewrite_report(run)
    from carbide.report.words import summary

    for line in summary(results):
        say(line)
    say(f"Open in a browser: {page}")


@app.command()
def gate(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    sarif: Annotated[Path | None, typer.Option("--sarif", help="Also write the breaches as SARIF 2.1.0.")] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="Also write the gate as JUnit XML.")] = None,
    rule: Annotated[
        list[str] | None, typer.Option("--rule", help='A rule instead of the plan\'s gate, e.g. "robust_recall >= 0.7" or "properties all".')
    ] = None,
) -> None:
    """Compare a run with its gate: exit 0 when every rule holds, 1 when one does not. What was not measured or proven does not hold."""
    from carbide.verify import judge_run

    lines = judge_run(run, rules=rule or [], sarif=sarif, junit=junit)
    for line in lines:
        say(_said(line))
    failed = [line for line in lines if not line.passed]
    if failed:
        mend = f"carbide harden {run / 'plan.yaml'}"
        if all(line.verdict for line in failed):
            mend = f"see {run / 'report.html'} and train a model that keeps its properties (for instance with monotone constraints)"
        say(f"Next: {mend}, or change the gate if the risk is accepted")
        raise typer.Exit(1)


def _said(line: Any) -> str:
    """A line of the gate on one line."""
    return f"{'pass' if line.passed else 'FAIL'}  {line.rule}: {line.verdict or f'{line.value:.4g}'}{f' ({line.reason})' if line.reason else ''}"


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    allow: Allow = None,
) -> None:
    """Hold what a run says against its evidence, line by line, and say what was not checked; exit 1 when something does not agree."""
    from carbide.verify import check_run

    _allow(allow)
    found = check_run(run)
    for check in found.checks:
        say(str(check))
    for words in found.unchecked:
        say(f"not checked: {words}")
    if not all(check.agrees for check in found.checks):
        say("The report does not follow from its evidence: do not rely on it; run the plan again")
        raise typer.Exit(1)


@app.command("methods")
def list_methods(
    room: Annotated[str | None, typer.Option(help="Only this threat.")] = None, verb: Annotated[str | None, typer.Option(help="Only this verb.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:  # fmt: skip
    """List every method with its threat, verb, access needed and paper."""
    from carbide.registry import ROOMS, VERBS, methods

    for value, known, name in ((room, ROOMS, "room"), (verb, VERBS, "verb")):
        if value is not None and value not in known:
            _fail_input(f"{name} {value!r} is not known; choose {', '.join(known)}")
    rows = [{"room": e.room, "verb": e.verb, "name": e.name, "threats": ", ".join(t.__name__ for t in e.cls.threats) if e.cls else "",
             "needs": (e.cls.needs.words() + (", training" if e.cls.trains else "")) if e.cls else f"the {e.missing} extra", "paper": e.paper}
            for e in methods(room=room, verb=verb)]  # fmt: skip
    if as_json:
        import json

        say(json.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("room", "verb", "name", "threats", "needs", "paper")
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)


@app.command()
def schema(which: Annotated[str, typer.Argument(help="plan or results")] = "plan") -> None:
    """Print the JSON schema of a plan (with every method's options) or of results.json."""
    import json

    if which == "plan":
        from carbide.plan import plan_schema as make
    elif which == "results":
        from carbide.report.results_json import results_schema as make
    else:
        _fail_input(f"schema {which!r} is not known; choose plan or results")
    say(json.dumps(make(), indent=1, sort_keys=True))


@space_app.command("show")
def space_show(
    file: Annotated[Path, typer.Argument(help="A space file.")],
    prices: Annotated[Path | None, typer.Option("--prices", help="A price table; left out, the prices in the space file, if it holds any.")] = None,
) -> None:
    """Check a space file and its prices, and print them in words."""
    import json

    from carbide.space.files import load_space
    from carbide.space.infer import describe_space
    from carbide.space.prices import load_prices
    from carbide.space.words import describe_prices

    space = load_space(file)
    say(describe_space(space))
    if prices is not None or "prices" in json.loads(file.read_text(encoding="utf-8")):
        say(describe_prices(load_prices(prices or file, space), space))


@space_app.command("infer")
def space_infer(
    data: Annotated[str, typer.Argument(help="The data, or a built-in case.")],
    label: Annotated[str | None, typer.Option("--label", help="Label column.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the draft goes.")] = Path("space.json"),
) -> None:
    """Draft a space file from data and print it in words, for a person to confirm."""
    from carbide.api import load_data
    from carbide.space.files import save_space
    from carbide.space.infer import describe_space, holding

    options = {} if label is None else {"label": label}
    splits = load_data(data, **options)
    space = splits.train.space
    for part in (splits.validation, splits.test):  # a draft that the data it was drafted from breaks is of no use
        space = holding(space, part.x)
    save_space(space, out)
    say(describe_space(space))
    say(f"Read this with somebody who knows the data, correct {out}, and name it in the plan: data: {{space: {out}}}")


@guard_app.command("serve")
def guard_serve(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run with a hardened model.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1", port: Annotated[int, typer.Option(help="Port.")] = 8000,
    budget: Annotated[int, typer.Option(help="Rows a key may ask for in an hour.", min=1)] = 10_000,
    prices: Annotated[Path | None, typer.Option(help="Price table: each alert gets a certificate, the price below which no change turns it off.")] = None,
    money: Annotated[float | None, typer.Option(help="Certificates look no further than this price.")] = None,
    allow: Allow = None,
) -> None:  # fmt: skip
    """Serve the hardened model over HTTP with its output policy and a query budget a key."""
    from carbide.guard.serve import serve

    _allow(allow)
    serve(run, host=host, port=port, budget=budget, prices=prices, money=money)


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from carbide import __version__

        say(f"carbide {__version__}")
        raise typer.Exit(0)


def _run(plan: Any, out: Path | None, verbs: tuple[str, ...], workers: int | None, quiet: bool, trust: bool) -> Any:
    from carbide.api import run_plan

    return run_plan(plan, out=out, verbs=verbs, workers=workers, quiet=True if quiet else None, trust=trust)


def _finish(report: Any, plan: Any) -> None:
    say(str(report))
    folder = report.folder
    say(f"Open in a browser: {folder / 'report.html'}")
    for step in report.results.next_steps:
        say(f"Next: {step.replace('RUN', str(folder)).replace('PLAN', str(plan) if isinstance(plan, Path) else 'plan.yaml')}")
    if not report.passed:
        for line in report.results.gate:
            if not line.passed:
                say(_said(line))
        raise typer.Exit(1)


def _allow(addresses: list[str] | None) -> None:
    from carbide.models import allow_factory

    for address in addresses or ():
        allow_factory(address)


def _fail_input(words: str) -> None:
    from carbide.types import InputError

    raise InputError(words)


def guarded(command: Callable[[], Any]) -> int:
    """Run a command and turn what it raises into an exit code and one sentence."""
    try:
        code = command()
    except KeyboardInterrupt:
        return _stopped()
    except MemoryError:
        print("carbide failed: out of memory; give fewer rows with data: {rows: N} or fewer workers with -j 1", file=sys.stderr)
        return 3
    except Exception as error:
        return _explain(error)
    if code == STOPPED:  # the command-line library turns Ctrl-C into this code without a word
        return _stopped()
    return code if isinstance(code, int) else 0


def _stopped() -> int:
    print("\ncarbide: stopped; every finished step is kept: give the same command again to go on", file=sys.stderr)
    return STOPPED


def _explain(error: Exception) -> int:
    from carbide.types import CarbideError, InputError, UnsoundError

    if isinstance(error, InputError):
        print(visible(f"carbide: {' '.join(str(error).split())}"), file=sys.stderr)
        return 2
    if isinstance(error, UnsoundError):  # an attack and a claim contradict each other; which of the two is wrong, the words say
        print(visible(f"carbide stopped: {error}"), file=sys.stderr)
        return 3
    if isinstance(error, CarbideError):
        print(visible(f"carbide failed: {error}"), file=sys.stderr)
        return 3
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, typer.Abort):
        return _stopped()
    if hasattr(error, "show") and hasattr(error, "exit_code"):  # what the command-line library raises for wrong options
        error.show()  # type: ignore[attr-defined]
        return 2
    import traceback

    traceback.print_exception(error)
    print("carbide failed: this is a fault of Carbide, not of your input; finished steps are kept", file=sys.stderr)
    return 3


def main() -> None:
    """The entry point of the ``carbide`` command."""
    sys.exit(guarded(lambda: app(standalone_mode=False)))


if __name__ == "__main__":
    main()
