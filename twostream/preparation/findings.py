"""What can be wrong below a data root, and the commands that fix it."""

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twostream.flow.methods import FlowSettings, flow_types
from twostream.frames.packed import FrameShards
from twostream.frames.stores import open_store
from twostream.preparation.settings import ExtractionSettings
from twostream.stream import RGB
from twostream.video.encoder import VideoEncoding

KINDS = {
    "installation": "this Python environment cannot do all of the work",
    "leftovers": "unfinished files of programs that were killed",
    "settings": "the settings of an input type cannot be read",
    "record": "the record of a video cannot be used",
    "missing images": "images that the record lists do not exist",
    "damaged image": "an image, or a video file of the store, is not the one that was written",
    "image size": "the images of a video differ in size, or from the record",
    "extra file": "files that the record does not list",
    "other settings": "a video was made with other settings than its input type",
    "flow clipped": "motion is faster than the bound of the flow images",
    "flow zero": "no motion is not at grey level 128",
    "one stream only": "a video does not have all input types",
    "streams differ": "the input types of a video do not match",
    "failed video": "extraction could not use a video",
    "annotations": "the annotations cannot be read",
    "not extracted": "listed with frames, but not extracted",
    "frame count": "the annotations and the images differ",
    "not listed": "extracted, but not in the annotations",
    "class without videos": "a class cannot be learned or evaluated",
}
"""kind of finding -> what it means, in the order of the report"""

OTHER_TOOL = "make these images again with the tool that made them"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    kind: str
    """a key of KINDS"""
    where: str
    """file, folder or video"""
    found: str
    expected: str
    fix: tuple[str, ...]
    """command lines, in order; words in capitals stand for what is not recorded"""
    video_id: str = ""
    """"" where the finding is not about one video"""
    remove: tuple[str, ...] = ()
    """input types that `remove` deletes for this video, so that extraction makes them again"""

    def __str__(self) -> str:
        return f"{self.where}: {self.found}; expected {self.expected}"


def remake(root: str, input_type: str, settings: dict[str, Any] | None, record: dict[str, Any] | None = None) -> str:
    """The command that extracts videos of an input type again, as the one with this record was.

    `settings`: as recorded beside the images; None where another tool made them, and no command of ours can.
    """
    if settings is None or input_type not in (RGB, *flow_types()):
        return OTHER_TOOL
    record = record or {}
    words = [f"--root={root}", f"--input_types={input_type}"]
    source = record.get("source", {})
    is_of_stored_frames = source.get("name", "").startswith(f"{RGB}-images/")
    if not is_of_stored_frames:
        words.append("--videos=VIDEOS")
    if not is_of_stored_frames and source.get("segment"):
        words += ["--list=LIST", "--trim"]
    flow = tuple(FlowSettings(method) for method in flow_types() if method == input_type)
    encoding = VideoEncoding() if "gop" in settings else None
    usual = ExtractionSettings(flow=flow, encoding=encoding).to_json(input_type)
    words += _flags(settings, usual, ("short_side", "fps", "frame_step"))
    if settings and "sar" not in settings and not is_of_stored_frames:
        words.append("--sar=ignore")
    if isinstance(open_store(root, input_type), FrameShards):  # also when its folder has been removed first
        words.append(f"--store={FrameShards.kind}")
    if encoding:
        words += ["--store=videos", *_flags(settings, usual, ("gop", "crf"))]
    elif not flow:
        words += _flags(settings, usual, ("quality",))
    elif "flow" in settings:
        words += _flow_flags(settings, usual)
    if fallback := record.get("mv_fallback"):
        words.append(f"--mv_fallback={fallback}")
    if record.get("damage"):
        words.append("--accept_partial")
    return shlex.join(["twostream", "extract", *words])


def _flow_flags(settings: dict[str, Any], usual: dict[str, Any]) -> list[str]:
    coding, parameters = settings["flow"]["coding"], settings["flow"]["parameters"]
    given = {"bound": coding["bound"], "flow_quality": settings.get("quality", usual["quality"])}
    if coding.get("planes"):
        defaults = {"bound": usual["flow"]["coding"]["bound"], "flow_quality": usual["quality"]}
        words = _flags(given, defaults, given)
    else:  # the defaults depend on the coding
        name = "2d-kinectics" if coding.get("integer_scale") else "colour"
        words = [f"--flow_coding={name}", *(f"--{flag}={value:g}" for flag, value in given.items())]
    return words + _flags(parameters, usual["flow"]["parameters"], usual["flow"]["parameters"])


def _flags(settings: dict[str, Any], usual: dict[str, Any], names: Iterable[str]) -> list[str]:
    """The flags of these settings that differ from the usual ones."""
    return [f"--{name}={settings[name]:g}" for name in names if settings.get(name, usual[name]) != usual[name]]


def settings_fault(settings: Any) -> str:
    """Why no command can be made from these settings; "" when one can."""
    if not isinstance(settings, dict):
        return "no settings"
    flow = settings.get("flow", {"coding": {"bound": 1}, "parameters": {}})
    if not isinstance(flow, dict) or not all(isinstance(flow.get(name), dict) for name in ("coding", "parameters")):
        return "no coding and parameters of flow"
    if settings.get("sar", "square") != "square":
        return f"sar is {settings['sar']!r}, not 'square'"
    numbers = (
        {name: value for name, value in settings.items() if name not in ("flow", "sar")}
        | flow["parameters"]
        | flow["coding"]
    )
    for name, value in numbers.items():
        if not isinstance(value, int | float):
            return f"{name} is not a number"
    if flow["coding"].get("bound", 0) <= 0:
        return "no bound of flow"
    return ""


def remove_command(root: str, *input_types: str) -> str:
    """The command that removes damaged videos of these input types."""
    return shlex.join(["twostream", "verify", f"--root={root}", f"--input_types={','.join(input_types)}", "--remove"])


def delete_command(*paths: str | Path) -> str:
    """The command that deletes files and folders."""
    return shlex.join(["rm", "-r", *map(str, paths)])


def remove(root: str | Path, findings: Iterable[Finding]) -> Iterator[tuple[str, str, bool]]:
    """Remove the videos that extraction can make again; yield input type, video id and whether it was removed.

    A video whose folder is a link is left alone, and so is the folder that the link points to.
    """
    for input_type, video_id in sorted({(t, finding.video_id) for finding in findings for t in finding.remove}):
        store = open_store(root, input_type)
        is_link = Path(store.where(video_id)).is_symlink()
        if not is_link:
            store.remove(video_id)
        yield input_type, video_id, not is_link
