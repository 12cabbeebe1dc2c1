"""Folders and pages of wheels that the user has configured for pip or uv."""

import configparser
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

_SYSTEM_PIP_CONFIG = Path("/etc/pip.conf")
_SYSTEM_UV_CONFIG = Path("/etc/uv/uv.toml")
_WHEEL = re.compile(r"\w[\w.]*-[^\s\"'<>/#]+\.whl")


def configured_find_links(environ: Mapping[str, str]) -> list[str]:
    """What `--find-links` is for uv and pip: absolute paths and URLs, each once, uv's before pip's."""
    links = [
        *_resolved(environ.get("UV_FIND_LINKS", "").split(","), Path.cwd(), environ),
        *_uv_links(environ),
        *_resolved(environ.get("PIP_FIND_LINKS", "").split(), Path.cwd(), environ),
        *_pip_links(environ),
    ]
    return list(dict.fromkeys(links))


def resolve_links(links: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Absolute paths and URLs, each once, for links as a user writes them."""
    return list(dict.fromkeys(_resolved(links, Path.cwd(), environ)))


def is_url(link: str) -> bool:
    return "://" in link


def list_wheels(links: Sequence[str]) -> list[str]:
    """File names of the wheels in folders and on pages; a page that cannot be read counts as empty."""
    names = (_wheels_on_page(link) if is_url(link) else _wheels_in_folder(Path(link)) for link in links)
    return [name for group in names for name in group]


def _wheels_in_folder(folder: Path) -> Iterable[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.suffix == ".whl")
    except OSError:
        return []


def _wheels_on_page(url: str) -> Iterable[str]:
    import httpx  # only those who configured a page pay for the import

    try:
        page = httpx.get(url, timeout=10, follow_redirects=True).raise_for_status().text
    except (httpx.HTTPError, httpx.InvalidURL):
        return []
    return sorted(set(_WHEEL.findall(unquote(page))))


def _resolved(values: Iterable[str], base: Path, environ: Mapping[str, str]) -> Iterator[str]:
    for value in filter(None, map(str.strip, values)):
        if value.startswith("file:"):
            yield url2pathname(urlsplit(value).path)
        elif is_url(value):
            yield value
        elif value == "~" or value.startswith("~/"):
            yield os.path.normpath(_user_home(environ) / value[2:])
        else:
            yield os.path.normpath(base / value)


def _uv_links(environ: Mapping[str, str]) -> Iterator[str]:
    for file in _uv_files(environ):
        settings = _read_toml(file)
        pip = settings.get("pip", {})
        for table in (settings, pip if isinstance(pip, dict) else {}):
            values = table.get("find-links", [])
            if isinstance(values, list):
                yield from _resolved(map(str, values), file.parent, environ)


def _uv_files(environ: Mapping[str, str]) -> list[Path]:
    if environ.get("UV_NO_CONFIG", "").lower() in ("1", "true", "yes", "on"):
        return []
    if explicit := environ.get("UV_CONFIG_FILE"):
        return [Path(explicit)]
    return [_config_home(environ) / "uv/uv.toml", *_config_dirs(environ, "uv/uv.toml"), _SYSTEM_UV_CONFIG]


def _read_toml(file: Path) -> dict[str, Any]:
    # uv itself reports a file that it cannot read.
    try:
        return tomllib.loads(file.read_text())
    except (OSError, ValueError):
        return {}


def _pip_links(environ: Mapping[str, str]) -> Iterator[str]:
    for file in _pip_files(environ):
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, ValueError):
            continue
        for section in ("install", "global"):
            if parser.has_section(section):
                options = {name.replace("_", "-"): value for name, value in parser.items(section)}
                yield from _resolved(options.get("find-links", "").split(), Path.cwd(), environ)


def _pip_files(environ: Mapping[str, str]) -> list[Path]:
    explicit = environ.get("PIP_CONFIG_FILE")
    if explicit == os.devnull:
        return []  # pip's own way to say: no files at all
    return [
        *([Path(explicit)] if explicit else []),
        Path(sys.prefix) / "pip.conf",
        _config_home(environ) / "pip/pip.conf",
        _user_home(environ) / ".pip/pip.conf",
        *_config_dirs(environ, "pip/pip.conf"),
        _SYSTEM_PIP_CONFIG,
    ]


def _user_home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME") or Path.home())


def _config_home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("XDG_CONFIG_HOME") or _user_home(environ) / ".config")


def _config_dirs(environ: Mapping[str, str], file: str) -> list[Path]:
    return [Path(folder) / file for folder in (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":") if folder]
