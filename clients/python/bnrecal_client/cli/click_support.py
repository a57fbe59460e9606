"""click, with grouped help, examples, one-line errors and suggestions for misspelled words."""

from __future__ import annotations

import difflib
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import click

from bnrecal_client.errors import OptionError

__all__ = [
    "Arguments",
    "Choice",
    "Command",
    "Group",
    "Option",
    "Positional",
    "option_error",
    "suggestion",
]

Arguments = SimpleNamespace
"""The parsed arguments of one command line, by name."""

_WIDTH = 100
_NAMES_WIDTH = 30
# Columns of a terminal below which the names of options leave too little for their texts.
_NARROW = 70
_INDENT = 4
_ARGUMENTS, _OPTIONS = "Arguments", "Options"


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean …?` for the nearest known word, or an empty string."""
    close = difflib.get_close_matches(word.lower(), list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


class Option(click.Option):
    """An option with a section of the help text.

    Args:
        names: as `click.Option`.
        section: heading under which the help lists it.
        options: as `click.Option`.
    """

    def __init__(self, *names: str, section: str = _OPTIONS, **options: Any) -> None:
        super().__init__(names, **options)
        self.section = section


class Positional(click.Argument):
    """A positional argument with a help text.

    Args:
        name: its name.
        text: the help text.
        options: as `click.Argument`.
    """

    def __init__(self, name: str, *, text: str, **options: Any) -> None:
        super().__init__([name], **options)
        self.text = text


class Choice(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.5
    """One of some words.

    Args:
        words: the words.
        others: accept any other word that resembles none of them.
        key: returns the part of a value that is compared.
    """

    name = "choice"

    def __init__(self, *words: str, others: bool = False, key: Callable[[str], str] = str) -> None:
        self._words = words
        self._others = others
        self._key = key

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the value, or raise an error that names the nearest word."""
        known = {self._key(word) for word in self._words}
        word = self._key(value)
        if word not in known:
            near = suggestion(word, sorted(known))
            if near or not self._others:
                self.fail(f"{value!r} is not one of {', '.join(self._words)}{near}", param, ctx)
        return value

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[Any]:
        """Return the words that begin with what is typed, or files where others are accepted."""
        from click.shell_completion import CompletionItem

        found = [CompletionItem(word) for word in self._words if word.startswith(incomplete)]
        if self._others and not found:
            return [CompletionItem(incomplete, type="file")]
        return found


class Command(click.Command):
    """A sub-command.

    Args:
        name: its name.
        run: is called with the arguments; returns the exit code, None for 0.
        summary: one line for the list of commands.
        description: what it does, in sentences.
        section: heading under which the list of commands has it.
        examples: command lines.
        options: as `click.Command`.
    """

    def __init__(
        self,
        name: str,
        *,
        run: Callable[[Arguments], int | None],
        summary: str,
        description: str,
        section: str,
        examples: Sequence[str] = (),
        **options: Any,
    ) -> None:
        def callback(**given: Any) -> int | None:
            return run(Arguments(**given))

        super().__init__(name, callback=callback, help=description, short_help=summary, **options)
        self.section = section
        self.examples = tuple(examples)

    def get_help(self, ctx: click.Context) -> str:
        """Return usage, description, examples and the arguments by section."""
        formatter = _formatter()
        pieces = " ".join(self.collect_usage_pieces(ctx))
        formatter.write_usage(ctx.command_path, pieces, prefix=f"{_heading('Usage')} ")
        _text(formatter, self.help or "")
        if self.examples:
            formatter.write_paragraph()
            formatter.write(f"{_heading('Examples')}\n")
            for line in self.examples:
                formatter.write(f"  {line}\n")
        for title, rows in self._rows(ctx).items():
            _table(formatter, title, rows)
        return formatter.getvalue().rstrip("\n")

    def _rows(self, ctx: click.Context) -> Mapping[str, list[tuple[str, str]]]:
        """Return the rows of the help by section, those without a section last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if isinstance(param, Positional):
                row = (param.make_metavar(ctx), param.text)
                sections.setdefault(_ARGUMENTS, []).append(row)
            elif (record := _record(param, ctx)) is not None:
                sections.setdefault(getattr(param, "section", _OPTIONS), []).append(record)
        last = sections.pop(_OPTIONS, [])
        return {**sections, _OPTIONS: last}


class Group(click.Group):
    """The command with its sub-commands.

    Args:
        notes: items of a list at the end of the help.
        options: as `click.Group`.
    """

    def __init__(self, name: str, *, notes: Sequence[str] = (), **options: Any) -> None:
        super().__init__(name, **options)
        self.notes = tuple(notes)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the sub-command; an unknown one is an error that names the nearest."""
        word = args[0]
        if word not in self.commands and not ctx.resilient_parsing:
            near = suggestion(word, self.commands)
            known = "" if near else f"; the commands are {', '.join(self.commands)}"
            raise _usage(f"there is no command {word!r}{near}{known}", ctx.command_path)
        return super().resolve_command(ctx, args)

    def get_help(self, ctx: click.Context) -> str:
        """Return usage, description, and the commands by section."""
        formatter = _formatter()
        formatter.write_usage(ctx.command_path, "COMMAND …", prefix=f"{_heading('Usage')} ")
        _text(formatter, self.help or "")
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            title = getattr(command, "section", "Commands")
            sections.setdefault(title, []).append((name, command.short_help or ""))
        records = [_record(param, ctx) for param in self.get_params(ctx)]
        sections[_OPTIONS] = [record for record in records if record is not None]
        for title, rows in sections.items():
            _table(formatter, title, rows)
        formatter.write_paragraph()
        formatter.write(f"{_wrapped_list(self.notes, formatter.width)}\n")
        return formatter.getvalue().rstrip("\n")


def _record(param: click.Parameter, ctx: click.Context) -> tuple[str, str] | None:
    """Return an option's names and help text; None for a hidden one."""
    found = param.get_help_record(ctx)
    if found is None or "--help" not in param.opts:
        return found
    return found[0], "print this text"


def _formatter() -> click.HelpFormatter:
    return click.HelpFormatter(width=min(_WIDTH, shutil.get_terminal_size().columns))


def _heading(text: str) -> str:
    return click.style(f"{text}:", bold=True)


def _text(formatter: click.HelpFormatter, text: str) -> None:
    formatter.write_paragraph()
    with formatter.indentation():
        formatter.write_text(text)


def _wrapped_list(items: Sequence[str], width: int) -> str:
    """Return items in lines, none of them divided."""
    lines = [items[0]]
    for item in items[1:]:
        if len(f"{lines[-1]} · {item}") < width:
            lines[-1] += f" · {item}"
        else:
            lines.append(item)
    return "\n".join(lines)


def _table(formatter: click.HelpFormatter, title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Write names and their meaning under a heading."""
    formatter.write_paragraph()
    formatter.write(f"{_heading(title)}\n")
    with formatter.indentation():
        colored = [(click.style(name, fg="cyan"), text) for name, text in rows]
        narrow = formatter.width < _NARROW
        formatter.write_dl(colored, col_max=_INDENT if narrow else _NAMES_WIDTH)


def option_error(error: click.UsageError, prog: str) -> OptionError:
    """Return click's error about a command line as this package's, with a suggestion."""
    path = prog if error.ctx is None else error.ctx.command_path
    return _usage(_message(error), path)


def _usage(message: str, path: str) -> OptionError:
    return OptionError(f"{message} (`{path} --help` lists the arguments)", code="usage")


def _message(error: click.UsageError) -> str:
    ctx = error.ctx
    if isinstance(error, click.NoSuchOption):
        params = [] if ctx is None else ctx.command.get_params(ctx)
        known = [name for param in params for name in (*param.opts, *param.secondary_opts)]
        return f"there is no option {error.option_name}{suggestion(error.option_name, known)}"
    param = error.param if isinstance(error, click.BadParameter) else None
    if param is None or ctx is None:
        return _lowered(error.format_message())
    is_option = isinstance(param, click.Option)
    named = max(param.opts, key=len) if is_option else param.make_metavar(ctx).rstrip(".")
    if isinstance(error, click.MissingParameter):
        return f"{named} is missing"
    return f"{named}: {_lowered(error.message)}"


def _lowered(message: str) -> str:
    """Return click's sentence as the part of another one."""
    text = message.rstrip(".")
    return text[:1].lower() + text[1:] if re.match(r"[A-Z][a-z]", text) else text
