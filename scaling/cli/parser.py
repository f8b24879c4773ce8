"""The `scaling` command: parses words, finds the command, turns errors into exit codes."""

import argparse
import math
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import fields

from scaling.cli import checkpoints, data, machine, plan, results, search, study
from scaling.cli.arguments import Asked
from scaling.cli.fit_arguments import add_fit_arguments
from scaling.cli.scores import scored
from scaling.messages import print_messages

SCORE_HELP = "compare done runs by horizon_l1 or adapted_success; computed where not known yet"
EXIT_DONE, EXIT_FAILED, EXIT_USER = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 1 failed, 2 user's mistake (one line on stderr)."""
    print_messages()
    try:
        return int(_call(_parse(argv)) or EXIT_DONE)
    except ValueError as error:
        return _complain(error, EXIT_USER)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return EXIT_FAILED
    except Exception as error:
        return _complain(error, EXIT_FAILED)


def _call(parsed: argparse.Namespace) -> int:
    """Call the verb with what was asked, and its own options by name: argparse ends here."""
    words = vars(parsed)
    verb = words.pop("run")
    for name in ("verb", "action"):
        words.pop(name, None)
    asked = {item.name: words.pop(item.name) for item in fields(Asked) if item.name in words}
    return verb(
        Asked(**{name: value for name, value in asked.items() if value is not None}), **words
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse words; overrides may also stand behind options: `plan STUDY --json scale=a100`."""
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    strange = [word for word in rest if word.startswith("-") or "=" not in word]
    if strange or (rest and not hasattr(arguments, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(strange or rest)}")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    return arguments


class _Parser(argparse.ArgumentParser):
    """argparse that reports a bad word in one line, as every other mistake."""

    def error(self, message: str):  # type: ignore[override]
        raise ValueError(f"{message}; see `{self.prog} --help`")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = _Parser(prog="scaling", description="Scaling studies of X-VLA, from plan to finetune.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--runs", default=None, help="folder of runs (default ./runs)")
    common.add_argument("--json", action="store_true", help="one JSON document on stdout")
    _add_data(verbs, common)
    _add_study_verbs(verbs, common)
    _add_search(verbs, common)
    _add_run_verbs(verbs, common)
    _add_analysis_verbs(verbs, common)
    _add_reuse_verbs(verbs, common)
    return parser


def _add_study_verbs(verbs, common) -> None:
    price = _study(verbs, common, "plan", plan.plan, "price the runs of a study; starts nothing")
    price.add_argument("--on", help="a cluster: its GPU kind and ceiling set the time")
    price.add_argument("--html", nargs="?", const="", metavar="PATH",
                       help="draw the grid (default: reports/STUDY/plan-SCALE.html)")  # fmt: skip
    price.add_argument("--memory", action="store_true", help="GiB by number of GPUs in --json too")
    submit = _study(verbs, common, "submit", study.submit, "run what is not done yet")
    submit.add_argument("--on", default="local", help="local, a100, dev, or a cluster's YAML file")
    submit.add_argument("--parallel", type=_count, default=0, help="at once (default: cores)")
    submit.add_argument("--detach", action="store_true", help="return at once, run in background")
    submit.add_argument("--max-gpu-hours", type=_hours, default=None, help="refuse above this")
    submit.add_argument("--dry-run", action="store_true", help="show the jobs, submit none")
    submit.add_argument("--then", default=None, help="verbs after the study, e.g. fit,report")
    status = _study(verbs, common, "status", study.status, "state of every run")
    status.add_argument("--select", default="", help="e.g. size=tiny,state=failed")
    status.add_argument("--watch", action="store_true", help="refresh until nothing runs")
    for name, function, text in (
        ("cancel", study.cancel, "stop running and queued runs of a study"),
        ("retry", study.retry, "forget failures, so that submit runs them again"),
        ("prune", study.prune, "delete checkpoints that nothing needs; says what it would delete"),
    ):
        verb = _study(verbs, common, name, function, text)
        verb.add_argument("--select", default="", help="e.g. size=tiny,state=failed")
        if name == "prune":
            verb.add_argument("--yes", action="store_true", help="delete")
    sync = _study(verbs, common, "sync", study.sync, "publish runs to MLflow")
    sync.add_argument("--tracking-uri", default=None)
    sync.add_argument("--follow", action="store_true", help="publish until the study is finished")


def _add_search(verbs, common) -> None:
    verb = _study(verbs, common, "search", search.search, "search a study's space")
    verb.add_argument("--on", default="local", help="local, or a cluster")
    verb.add_argument("--trials", type=int, default=20, help="how many points (default 20)")
    verb.add_argument("--parallel", type=int, default=1, help="runs at once (default 1)")
    verb.add_argument("--storage", default=None, help="a database's URL (default: a journal)")
    verb.add_argument("--score", default=None, help="val_l1, horizon_l1 or adapted_success")
    verb.add_argument("--sampler", default="tpe", help="tpe, gp or random")
    verb.add_argument("--seed", type=int, default=0, help="of the sampler")
    verb.add_argument("--no-prune", action="store_true", help="let every run finish")
    verb.add_argument("--max-gpu-hours", type=_hours, default=None, help="ask for no more")
    verb.add_argument("--top", type=_count, default=3, help="points run again with new seeds")
    verb.add_argument("--repeats", type=_count, default=3, help="new seeds a point")


def _add_run_verbs(verbs, common) -> None:
    logs = verbs.add_parser("logs", parents=[common], help="print a run's log")
    logs.add_argument("run_id", help="run id or its first digits")
    logs.add_argument("-f", "--follow", action="store_true")
    logs.set_defaults(run=study.logs)
    train = verbs.add_parser("train", help="advance one run (what jobs start)")
    train.add_argument("run_yaml", help="runs/<id>/run.yaml")
    train.add_argument("overrides", nargs="*", default=[], metavar="key=value")
    train.add_argument(
        "--fit-micro-batch", action="store_true", help="measure a sample, take what fits"
    )
    train.set_defaults(run=machine.train)
    _add_machine_verbs(verbs, common)


def _add_machine_verbs(verbs, common) -> None:
    doctor = verbs.add_parser("doctor", parents=[common], help="is this machine fit for a run?")
    doctor.add_argument("study", nargs="?", help="a study or run.yaml (default: a tiny run)")
    doctor.add_argument("overrides", nargs="*", default=[], metavar="key=value")
    doctor.add_argument("--ranks", type=int, default=2, help="processes for the gradient check")
    doctor.set_defaults(run=machine.doctor)
    trace = verbs.add_parser("profile", parents=[common], help="trace ten training steps of a run")
    trace.add_argument("run_yaml", help="runs/<id>/run.yaml")
    trace.add_argument("overrides", nargs="*", default=[], metavar="key=value")
    trace.add_argument("--steps", type=int, default=10)
    trace.set_defaults(run=machine.profile)


def _add_analysis_verbs(verbs, common) -> None:
    table = _study(verbs, common, "export", scored(results.export), "write runs and curves.parquet")
    table.add_argument("--score", help=SCORE_HELP)
    for name, function, text in (
        (
            "fit",
            scored(results.fit),
            "fit laws to a study or a table (.csv, .parquet, .jsonl)",
        ),
        ("report", scored(results.report), "fit, draw and write the HTML report"),
    ):
        verb = _study(verbs, common, name, function, text)
        verb.add_argument("--score", help=SCORE_HELP)
        verb.add_argument("--y", default="val_l1", help="column to explain (default val_l1)")
        verb.add_argument("--n-column", default="num_params_total", help="which N")
        add_fit_arguments(verb, one_law=name == "fit")


def _add_reuse_verbs(verbs, common) -> None:
    best = _study(verbs, common, "best", checkpoints.best, "pick and register the best checkpoint")
    best.add_argument("--size", default=None, help="best of one size")
    best.add_argument("--tracking-uri", default=None)
    lineage = verbs.add_parser("lineage", parents=[common], help="parents and children of a run")
    lineage.add_argument("run_id")
    lineage.set_defaults(run=checkpoints.lineage)
    tune = verbs.add_parser("finetune", parents=[common], help="adapt a checkpoint to a new robot")
    tune.add_argument("--from", dest="source", required=True,
                      help="best:STUDY[,key=value...], run:ID or a folder")  # fmt: skip
    tune.add_argument("--domain", required=True, help="the new domain, e.g. sim_xarm7")
    tune.add_argument("--recipe", default=None, help="default: finetune_small or finetune_paper")
    tune.add_argument("--episodes", type=_count, default=0, help="training episodes (0: all)")
    tune.add_argument("overrides", nargs="*", default=[], metavar="key=value")
    tune.add_argument("--on", default="local", help="local, a100, dev, or a cluster's YAML file")
    tune.add_argument("--detach", action="store_true", help="return at once, run in background")
    tune.add_argument("--dry-run", action="store_true", help="show the job, submit none")
    tune.set_defaults(run=checkpoints.finetune)


def _add_data(verbs, common) -> None:
    group = verbs.add_parser("data", help="make, look at and pretrain on robot data")
    actions = group.add_subparsers(dest="action", required=True, parser_class=_Parser)
    simulate = actions.add_parser("simulate", parents=[common], help="record simulated episodes")
    simulate.add_argument("name", nargs="?", help="domain, e.g. sim_panda_left")
    simulate.add_argument("--domain", help="the same, as an option; DOMAIN:TASK+TASK names tasks")
    simulate.add_argument("--task", help="tasks in turn, e.g. lift+pick_place")
    simulate.add_argument("--out", required=True, help="folder of the new dataset")
    simulate.add_argument(
        "--episodes", default="train=40,val=8,test=8", help="N, or a number a split"
    )
    simulate.add_argument("--seed", type=int, default=0)
    simulate.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    simulate.add_argument("--size", type=int, default=128, help="pixels")
    simulate.set_defaults(run=data.simulate)
    inspect = actions.add_parser("inspect", parents=[common], help="episodes, views, problems")
    inspect.add_argument("path")
    inspect.add_argument("--html", help="draw frames and trajectories into this file")
    inspect.set_defaults(run=data.inspect)
    mapping = actions.add_parser("map", parents=[common], help="say what the columns mean")
    mapping.add_argument("path", help="a LeRobot folder")
    mapping.add_argument("--write", action="store_true", help="write mapping.yaml into it")
    mapping.set_defaults(run=data.map_states)
    convert = actions.add_parser("convert", parents=[common], help="write as LeRobot v3.0")
    convert.add_argument("path", help="X-VLA's meta JSON or its folder, or a LeRobot v2.1 folder")
    convert.add_argument("folder", nargs="?", help="folder of the new dataset")
    convert.add_argument("--out", help="the same, as an option")
    convert.add_argument("--size", type=int, default=0, help="square pixels (0: as they are)")
    convert.add_argument("--crf", type=int, default=20, help="h264's rate factor, lower is better")
    convert.add_argument("--episodes-per-file", type=int, default=50)
    convert.add_argument("--workers", type=int, default=1)
    convert.add_argument("--skip-bad", action="store_true", help="leave out defective episodes")
    convert.set_defaults(run=data.convert)
    prepare = _study(actions, common, "prepare", data.prepare,
                     "build indices and frame caches of a study's domains, once")  # fmt: skip
    prepare.add_argument("--out", required=True, help="folder of caches, for data.cache")
    prepare.add_argument("--frames", choices=("none", "raw", "jpeg"), default="none")
    prepare.add_argument("--yes", action="store_true", help="write; without it, say what it takes")
    encoder = actions.add_parser("pretrain-encoder", parents=[common],
                                 help="train the small stand-in for Florence-2")  # fmt: skip
    encoder.add_argument("--frames", required=True, help="labelled frames; rendered if empty")
    encoder.add_argument("--out", required=True)
    encoder.add_argument("--steps", type=int, default=3500)
    encoder.add_argument("--batch-size", type=int, default=32)
    encoder.add_argument("--seed", type=int, default=0)
    encoder.set_defaults(run=data.pretrain_encoder)


def _study(verbs, common, name: str, function, text: str) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, parents=[common], help=text)
    verb.add_argument("study", metavar="STUDY", help="module path, e.g. sweeps.demo")
    verb.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="e.g. scale=a100"
    )
    verb.set_defaults(run=function)
    return verb


def _count(text: str) -> int:
    """Read a whole number that is not negative."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}; give a whole number, 0 or more")
    return int(text)


def _hours(text: str) -> float:
    """Read a number of hours; nan is none, as nothing is ever above it."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text!r}; give a number of GPU-hours, 0 or more")
    return value


def _complain(error: Exception, code: int) -> int:
    if os.environ.get("SCALING_DEBUG"):
        traceback.print_exc()
    text = " ".join(str(error).split()) or type(error).__name__
    named = text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
    print(f"error: {named}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
