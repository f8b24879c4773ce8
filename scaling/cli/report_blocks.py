"""What a report shows beside the laws: best run, blind runs, finetuning, search, hours."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from scaling.cli.arguments import done_runs
from scaling.document import Document
from scaling.runs.checkpoints import WEIGHTS
from scaling.runs.folder import Run
from scaling.spec import RunSpec

if TYPE_CHECKING:
    from analysis.pages.documents import Ledger, SearchResult
    from analysis.paired import Paired
    from analysis.prompts import PromptMap
    from scaling.adaptation import Finetuned
    from scaling.best import Best


@dataclass(frozen=True, slots=True, kw_only=True)
class BlindRow:
    """Blind runs against sighted ones, paired by the episodes of a split."""

    domains: str
    split: str
    seeds: int
    paired: "Paired"

    def to_dict(self) -> dict[str, Any]:
        """Return one flat row."""
        about = {"domains": self.domains, "split": self.split, "seeds": self.seeds}
        return about | self.paired.to_dict()


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneRow(Document):
    """One finetuning as a flat row: both splits, before and after, trivial predictors."""

    run_id: str
    parent: str
    domain: str
    val_l1_before: float
    val_l1_after: float
    val_l1_sem_after: float | None
    test_l1_before: float
    test_l1_after: float
    test_l1_hold: float
    test_l1_mean_chunk: float
    test_l1_position_m_before: float
    test_l1_position_m_after: float
    test_l1_position_m_hold: float
    checkpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportBlocks:
    """What a report shows beside the laws; None where a study has none of it.

    `not_shown` says why only the laws are reported.
    """

    simulated: bool
    best: "Best | None" = None
    soft_prompts: "PromptMap | None" = None
    blind: Sequence[BlindRow] = ()
    finetune: Sequence[FinetuneRow] = ()
    search: "SearchResult | None" = None
    ledger: "Ledger | None" = None
    not_shown: str | None = None

    def named(self) -> dict[str, Any]:
        """Return the blocks that there are, by their names on the page and in the record."""
        blocks: dict[str, Any] = {
            "simulated": self.simulated,
            "best": self.best and self.best.to_dict(),
            "soft_prompts": self.soft_prompts,
            "blind": [row.to_dict() for row in self.blind],
            "finetune": [row.to_dict() for row in self.finetune],
            "search": self.search,
            "ledger": self.ledger,
            "not shown": self.not_shown,
        }
        return {name: block for name, block in blocks.items() if block not in (None, [])}


def is_simulated(specs: list[RunSpec]) -> bool:
    """Tell whether all data of a study are simulated."""
    return all(entry.name.startswith("sim_") for spec in specs for entry in spec.data.mixture)


def beside_the_laws(specs: list[RunSpec], folder: Path) -> ReportBlocks:
    """Return what a report shows beside the laws, for its page and its record."""
    from scaling.adaptation import finetune_result, finetuned_from
    from scaling.best import best

    done = done_runs(specs, folder)
    sighted = any(not spec.data.blind for spec in done)
    tuned = finetuned_from(folder, {spec.run_id for spec in specs})
    return ReportBlocks(
        simulated=is_simulated(specs),
        best=best(specs, folder) if sighted else None,
        soft_prompts=_soft_prompts(done, folder) if sighted else None,
        blind=_blind_against_sighted(done, folder),
        finetune=[_finetune_row(finetune_result(s, r, parent=_parent(s))) for s, r in tuned],
        search=_searched(specs[0].study, folder),
        ledger=_ledger(specs, folder),
    )


def _searched(study: str, folder: Path) -> "SearchResult | None":
    """Return what `scaling search` found, as it wrote it; None where nobody has searched."""
    from analysis.pages.documents import SearchResult
    from scaling.runs.files import read_json_or_none
    from scaling.search.runs import search_folder

    found = read_json_or_none(search_folder(folder, study) / "result.json")
    return cast(SearchResult, found) if found else None


def _ledger(specs: list[RunSpec], folder: Path) -> "Ledger":
    """Return what became of the hours that the runs took of GPUs, and one line of it."""
    from analysis.pages.documents import Ledger
    from jobs.ledger import ledger, render_ledger

    book = ledger(specs, folder)
    return cast(Ledger, {"text": render_ledger(book)} | book.to_dict())


def _soft_prompts(done: list[RunSpec], folder: Path) -> "PromptMap | None":
    """Return where the soft prompts of the best run on the most domains lie."""
    from safetensors import safe_open

    from analysis.prompts import map_prompts
    from scaling.best import best
    from xvla.domains import domain_rows

    most = max(len(spec.data.mixture) for spec in done)
    able = [s for s in done if len(s.data.mixture) == most and s.model.soft_prompt_length > 1]
    if most < 2 or not any(not spec.data.blind for spec in able):
        return None
    found = best(able, folder)
    spec = next(spec for spec in able if spec.run_id == found.run_id)
    names, length = [e.name for e in spec.data.mixture], spec.model.soft_prompt_length
    with safe_open(Path(found.checkpoint) / WEIGHTS, framework="numpy") as file:
        table = file.get_tensor("transformer.soft_prompt_hub.weight")
    rows = table[[domain_rows(spec.data)[name] for name in names]].reshape(len(names), length, -1)
    return map_prompts(rows, names)


def _blind_against_sighted(done: list[RunSpec], folder: Path) -> list[BlindRow]:
    """Compare blind runs with the sighted runs of the same science, paired by test episode."""
    from dataclasses import replace

    from analysis.paired import paired_difference
    from scaling.runs.table import read_final_episodes

    by_id = {spec.run_id: spec for spec in done}
    pairs = [
        (replace(spec, data=replace(spec.data, blind=False)).run_id, spec.run_id)
        for spec in done
        if spec.data.blind
    ]
    pairs = [pair for pair in pairs if pair[0] in by_id]
    if not pairs:
        return []
    domains = sorted({entry.name for entry in by_id[pairs[0][0]].data.mixture})
    groups = {"single-arm": [d for d in domains if not d.endswith("_dual")], "all": domains}
    rows = []
    for group, names in groups.items():
        if not names:
            continue
        for metric in ("l1_position_m", "l1"):
            found = paired_difference(
                [read_final_episodes(Run.of(folder, sighted), "test") for sighted, _ in pairs],
                [read_final_episodes(Run.of(folder, blind), "test") for _, blind in pairs],
                metric=metric,
                domains=names,
            )
            rows.append(BlindRow(domains=group, split="test", seeds=len(pairs), paired=found))
    return rows


def _finetune_row(result: "Finetuned") -> FinetuneRow:
    before, after = result.metrics_before, result.metrics_after
    return FinetuneRow(
        run_id=result.run_id,
        parent=result.parent,
        domain=result.domain,
        val_l1_before=result.val_l1_before,
        val_l1_after=result.val_l1_after,
        val_l1_sem_after=result.val_l1_sem_after,
        test_l1_before=before["test/l1"],
        test_l1_after=after["test_l1"],
        test_l1_hold=after["baseline_hold_test_l1"],
        test_l1_mean_chunk=after["baseline_mean_chunk_test_l1"],
        test_l1_position_m_before=before["test/l1_position_m"],
        test_l1_position_m_after=after["test_l1_position_m"],
        test_l1_position_m_hold=after["baseline_hold_test_l1_position_m"],
        checkpoint=result.checkpoint,
    )


def _parent(spec: RunSpec) -> str:
    return Path(spec.init.checkpoint).parents[1].name
