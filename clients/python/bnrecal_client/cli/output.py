"""What a command prints: the summary of a run, tables, sizes and counts, as text or as JSON.

Only the result goes to stdout. A server may be newer than this client, so a member that a report
lacks only omits its line.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from bnrecal_client.cli.click_support import Arguments
from bnrecal_client.cli.exit_codes import Exit
from bnrecal_client.cli.in_process import LocalResult
from bnrecal_client.cli.outputs import OutputFile, Outputs
from bnrecal_client.result import Outcome, Result

if TYPE_CHECKING:
    from bnrecal_client.cli.data.array_batches import DataSet
    from bnrecal_client.cli.data.image_files import ImageSet

__all__ = [
    "count",
    "deliver",
    "file_size",
    "paint",
    "parity_line",
    "parity_of",
    "print_json",
    "print_lines",
    "print_result",
    "say",
    "size",
    "summary",
    "summary_lines",
    "table",
]

_COLORS = {"deploy": "green", "check-with-labels": "yellow", "do-not-deploy": "red"}
_LARGEST = 5
_STEP = 1000.0


def deliver(
    args: Arguments,
    result: Result | LocalResult,
    outputs: Outputs,
    *,
    data: DataSet | ImageSet | None = None,
) -> Exit:
    """Write the files of a finished recalibration, print its summary, return the exit code.

    The models of a result that should not be deployed are written only with `--force`.

    Args:
        args: the parsed options.
        result: the recalibration.
        outputs: the files to write.
        data: what the stream was read from; None if unknown.
    """
    verdict = result.verdict
    rejected = verdict is not None and verdict.is_rejection
    withheld = outputs.models() if rejected and not args.force else ()
    files = outputs.write(result, models=not withheld)
    print_result(args, result, files, withheld=withheld, data=data)
    return Exit.DO_NOT_DEPLOY if rejected else Exit.OK


def print_result(
    args: Arguments,
    result: Outcome,
    files: Sequence[OutputFile],
    *,
    withheld: Sequence[OutputFile] = (),
    data: DataSet | ImageSet | None = None,
) -> None:
    """Print the summary of a finished recalibration.

    Args:
        args: the parsed options.
        result: the recalibration.
        files: the files that were written.
        withheld: the files that were not written because of the verdict.
        data: what the stream was read from; None if unknown.
    """
    found = summary(result, files, withheld, data)
    if args.json:
        print_json({**found, "server": args.server})
    elif not args.quiet:
        print_lines(summary_lines(found))
    if withheld:
        names = ", ".join(str(file.path) for file in withheld)
        why = "not written because of the verdict do-not-deploy (--force writes it)"
        click.echo(f"{paint('bnrecal:', fg='red', bold=True)} {why}: {names}", err=True)


def say(line: str) -> None:
    """Print one line of text; colors are removed where stdout shows none."""
    click.echo(line, color=_color())


def print_lines(lines: Iterable[str]) -> None:
    """Print lines of text."""
    for line in lines:
        say(line)


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object."""
    say(json.dumps(value, indent=2, ensure_ascii=False))


def paint(text: str, *, fg: str | None = None, bold: bool = False) -> str:
    """Return text in a color, for `say`."""
    return click.style(text, fg=fg, bold=bold or None)


def _color() -> bool | None:
    """Return False where the user wants no colors, else None: as stdout shows them.

    Source: https://no-color.org.
    """
    return False if os.environ.get("NO_COLOR") else None


def summary(
    result: Outcome,
    files: Sequence[OutputFile],
    withheld: Sequence[OutputFile] = (),
    data: DataSet | ImageSet | None = None,
) -> dict[str, Any]:
    """Return the summary as JSON values; the arguments are those of `print_result`."""
    report = result.report
    layers = _members(report, "layers")
    done = [layer for layer in layers if layer.get("status") == "recalibrated"]
    folds = _members(report, "fold")
    verdict = result.verdict
    return {
        "verdict": None if verdict is None else msgspec.to_builtins(verdict),
        "recalibration_id": result.recalibration_id,
        "method": report.get("method"),
        "estimator": report.get("estimator"),
        "samples": _deep(report, "stream", "samples"),
        "batches": _deep(report, "stream", "batches"),
        "files_read": None if data is None else data.files,
        "files_ignored": {} if data is None else dict(data.ignored),
        "skipped_samples": [msgspec.to_builtins(skip) for skip in result.skipped],
        "layers": {"total": len(layers), "recalibrated": len(done)},
        "drift": [_drift(layer) for layer in _largest(done)],
        "folded": sum(fold.get("status") == "folded" for fold in folds),
        "kept": [
            {"layer": fold.get("name"), "reason": fold.get("reason")}
            for fold in folds
            if fold.get("status") != "folded"
        ],
        "parity": parity_of(report),
        "evaluation": _evaluation(report),
        "warnings": list(report.get("warnings") or ()),
        "files": _as_json(files),
        "withheld": _as_json(withheld),
    }


def _as_json(files: Sequence[OutputFile]) -> list[dict[str, str]]:
    return [{"kind": file.kind, "path": str(file.path)} for file in files]


def summary_lines(found: Mapping[str, Any]) -> list[str]:
    """Return a summary as lines of text, the verdict first."""
    return [
        *_verdict(found["verdict"]),
        *_headline(found),
        *_ignored(found),
        *_skipped(found["skipped_samples"]),
        *_drifts(found["drift"]),
        *_folds(found),
        *([] if found["parity"] is None else [parity_line(found["parity"])]),
        *_evaluations(found["evaluation"]),
        *(f"{paint('warning:', fg='yellow')} {warning}" for warning in found["warnings"]),
        *_files(found["files"]),
    ]


def _verdict(verdict: Mapping[str, Any] | None) -> list[str]:
    if verdict is None:
        return []
    badge = verdict["code"].replace("-", " ").upper()
    badge = paint(badge, fg=_COLORS.get(verdict["code"], "yellow"), bold=True)
    return [
        f"{badge}  {verdict['sentence']}",
        *(f"  {paint('because:', bold=True)} {reason['text']}" for reason in verdict["reasons"]),
        *(f"  {paint('next:', bold=True)} {step}" for step in verdict["next_steps"]),
        "",
    ]


def _headline(found: Mapping[str, Any]) -> list[str]:
    layers = found["layers"]
    of = "" if layers["recalibrated"] == layers["total"] else f" of {layers['total']:,}"
    noun = count(layers["recalibrated"], "layer").split(" ", 1)[1]
    done = f"recalibrated {layers['recalibrated']:,}{of} {noun}"
    if found["samples"] is not None and found["batches"] is not None:
        stream = f"{count(found['samples'], 'sample')} in {count(found['batches'], 'batch')}"
        done += f" from {stream}"
    estimator = (found["estimator"] or {}).get("name")
    return [f"{done} ({found['method']}, {estimator})"]


def _ignored(found: Mapping[str, Any]) -> list[str]:
    ignored = found["files_ignored"]
    if not ignored:
        return []
    others = sum(ignored.values())
    ordered = sorted(ignored.items(), key=lambda item: (-item[1], item[0]))
    kinds = ", ".join(f"{suffix} {number:,}" for suffix, number in ordered)
    read = found["files_read"]
    return [f"{count(read + others, 'file')}: {read:,} read, {others:,} ignored ({kinds})"]


def _skipped(skipped: Sequence[Mapping[str, Any]]) -> list[str]:
    if not skipped:
        return []
    lines = [f"left out {count(len(skipped), 'bad sample')}"]
    lines += [
        f"  {skip['name'] or 'sample ' + str(skip['index'])}: {skip['reason']}"
        for skip in skipped[:_LARGEST]
    ]
    if len(skipped) > _LARGEST:
        lines.append(
            f"  and {len(skipped) - _LARGEST:,} more, listed by --json and the JSON report"
        )
    return lines


def _drifts(drifts: Sequence[Mapping[str, Any]]) -> list[str]:
    if not drifts:
        return []
    rows = [
        [str(d["layer"]), f"{d['drift']:.2f}", f"{d['mean_shift']:.2f}", f"{d['log_var']:.2f}"]
        for d in drifts
    ]
    head = ["largest drift", "drift/σ", "|Δμ|/σ", "|Δ ln σ²|"]
    return ["", *table(head, rows, right=frozenset({1, 2, 3})).splitlines(), ""]


def _folds(found: Mapping[str, Any]) -> list[str]:
    total = found["folded"] + len(found["kept"])
    if total == 0:
        return []
    written = [f"folded {found['folded']:,} of {count(total, 'layer')}"]
    written += [f"  kept {kept['layer']}: {kept['reason']}" for kept in found["kept"][:_LARGEST]]
    if len(found["kept"]) > _LARGEST:
        written.append(f"  and {len(found['kept']) - _LARGEST} more, listed in the report")
    return written


def parity_line(parity: Mapping[str, Any]) -> str:
    """Return how far folded and unfolded model differ; `parity` as from `parity_of`."""
    error, limit, samples = parity["max_relative_error"], parity["tolerance"], parity["samples"]
    on = f" on {count(samples, 'sample')}" if samples else ""
    found = f"folded and unfolded agree to {error:.1e} relative (limit {limit:.0e}){on}"
    exact = parity["exact_error"]
    if exact is not None:
        found += f", to {exact:.1e} in float64"
    if error > limit:
        found += f"; rounding alone moves the model by {parity['rounding'] or 0.0:.1e}"
    return found


def _evaluations(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return []
    before, after = 100 * found["error_before"], 100 * found["error_after"]
    labeled = f"{found['samples']:,} labeled {'sample' if found['samples'] == 1 else 'samples'}"
    return [f"error on {labeled}: {before:.1f} % before, {after:.1f} % after"]


def _files(files: Sequence[Mapping[str, str]]) -> list[str]:
    width = max((len(file["kind"]) for file in files), default=0)
    return [
        f"{paint('wrote', fg='green')} {file['kind'].ljust(width)}  {file['path']} "
        f"({file_size(Path(file['path']))})"
        for file in files
    ]


def _largest(layers: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    drifted = [layer for layer in layers if layer.get("drift")]
    ordered = sorted(drifted, key=lambda layer: -(layer["drift"].get("wasserstein") or 0.0))
    return ordered[:_LARGEST]


def _drift(layer: Mapping[str, Any]) -> dict[str, Any]:
    drift = layer["drift"]
    return {
        "layer": layer.get("name"),
        "drift": drift.get("wasserstein") or 0.0,
        "mean_shift": drift.get("mean_shift_max") or 0.0,
        "log_var": drift.get("log_var_ratio_max") or 0.0,
    }


def parity_of(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the main figures of a report's parity; None if it has none."""
    parity = report.get("parity")
    wanted = ("max_relative_error", "tolerance", "samples", "passed")
    if not isinstance(parity, Mapping) or any(parity.get(name) is None for name in wanted):
        return None
    outputs = _members(parity, "outputs")
    return {
        **{name: parity[name] for name in wanted},
        "exact_error": _largest_of(outputs, "exact_error"),
        "rounding": _largest_of(outputs, "rounding"),
    }


def _largest_of(outputs: Sequence[Mapping[str, Any]], name: str) -> float | None:
    known = [output[name] for output in outputs if output.get(name) is not None]
    return max(known) if known and len(known) == len(outputs) else None


def _evaluation(report: Mapping[str, Any]) -> dict[str, Any] | None:
    found = report.get("evaluation")
    wanted = ("samples", "error_before", "error_after")
    if not isinstance(found, Mapping) or any(found.get(name) is None for name in wanted):
        return None
    return {name: found[name] for name in wanted}


def _members(report: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = report.get(key)
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []


def _deep(report: Mapping[str, Any], outer: str, inner: str) -> Any:
    found = report.get(outer)
    return found.get(inner) if isinstance(found, Mapping) else None


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[int]) -> str:
    """Return rows as aligned columns.

    Args:
        head: the column titles.
        rows: one string per column each.
        right: indices of right-aligned columns.
    """
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def size(count_bytes: int) -> str:
    """Return a number of bytes with three digits."""
    value = float(count_bytes)
    for unit in ("B", "kB", "MB"):
        if value < _STEP:
            return f"{value:.3g} {unit}"
        value /= _STEP
    return f"{value:.3g} GB"


def file_size(path: Path) -> str:
    """Return the size of a file, including the external data files of a large model."""
    data = path.parent.glob(f"{glob.escape(path.name)}.*.data")
    return size(sum(file.stat().st_size for file in (path, *data)))


def count(number: int, noun: str) -> str:
    """Return a number with its noun: 1 layer, 2 layers, 3 batches."""
    plural = f"{noun}es" if noun.endswith("ch") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
