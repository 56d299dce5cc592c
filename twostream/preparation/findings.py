"""What can be wrong below a data root, and the command lines that mend it."""

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from twostream.flow.methods import FLOW_METHODS, FlowSettings
from twostream.frames.stores import open_store
from twostream.preparation.settings import ExtractionSettings
from twostream.stream import RGB

KINDS = {
    "installation": "this Python cannot do all of the work",
    "leftovers": "what killed programs left",
    "settings": "the settings of a tree cannot be read",
    "record": "the record of a video cannot be used",
    "missing images": "images that the record lists are gone",
    "damaged image": "not the image that was written",
    "image size": "images of one video differ in size, or from the record",
    "extra file": "files that the record does not list",
    "other settings": "a video was made with other settings than its tree",
    "flow clipped": "motion is faster than the bound of the flow images",
    "flow zero": "no motion is not at grey level 128",
    "one stream only": "a video has not all input types",
    "streams differ": "the input types of a video do not fit together",
    "failed video": "extraction could not use a video",
    "annotations": "the annotations cannot be read",
    "not extracted": "listed with frames, but not there",
    "frame count": "the annotations and the images differ",
    "not listed": "extracted, but not in the annotations",
    "class without videos": "a class that cannot be learned or judged",
}
"""kind of finding -> what it means, in the order of the report"""

OTHER_TOOL = "make these images again with the tool that made them"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    kind: str
    where: str
    found: str
    expected: str
    mend: tuple[str, ...]
    """command lines, one after the other; capital words in them stand for what is not recorded"""
    video_id: str = ""
    remove: tuple[str, ...] = ()
    """input types of which `remove` takes this video away, for extraction to make it again"""

    def __str__(self) -> str:
        return f"{self.where}: {self.found}; expected {self.expected}"


def remake(root: str, input_type: str, settings: dict | None, record: dict | None = None) -> str:
    """The command that extracts videos of an input type again, as those with this record were.

    `settings`: of the tree; None where another tool made it, and there is no such command.
    """
    if settings is None or input_type not in (RGB, *FLOW_METHODS):
        return OTHER_TOOL
    record = record or {}
    words = [f"--root={root}", f"--input_types={input_type}"]
    source = record.get("source", {})
    if source.get("name", "").startswith(f"{RGB}-images/"):
        pass  # flow of stored frames
    elif source.get("segment"):
        words += ["--videos=VIDEOS", "--list=LIST", "--trim"]
    else:
        words += ["--videos=VIDEOS"]
    flow = tuple(FlowSettings(method) for method in FLOW_METHODS if method == input_type)
    usual = ExtractionSettings(flow=flow).to_json(input_type)
    words += _flags(settings, usual, ("short_side", "fps", "frame_step"))
    if not flow:
        words += _flags(settings, usual, ("quality",))
    elif "flow" in settings:
        coding, parameters = settings["flow"]["coding"], settings["flow"]["parameters"]
        named = {"bound": coding["bound"], "flow_quality": settings.get("quality", usual["quality"])}
        if coding.get("planes"):
            words += _flags(named, {"bound": usual["flow"]["coding"]["bound"], "flow_quality": usual["quality"]}, named)
        else:  # what is usual depends on the coding
            name = "2d-kinectics" if coding.get("integer_scale") else "colour"
            words += [f"--flow_coding={name}", *(f"--{flag}={value:g}" for flag, value in named.items())]
        words += _flags(parameters, usual["flow"]["parameters"], usual["flow"]["parameters"])
    if record.get("damage"):
        words.append("--accept_partial")
    return shlex.join(["python", "prep/extract.py", *words])


def _flags(settings: dict, usual: dict, names: Iterable[str]) -> list[str]:
    return [f"--{name}={settings[name]:g}" for name in names if settings.get(name, usual[name]) != usual[name]]


def settings_fault(settings: object) -> str:
    """Why commands cannot be made of these settings; empty when they can."""
    if not isinstance(settings, dict):
        return "no settings"
    flow = settings.get("flow", {"coding": {"bound": 1}, "parameters": {}})
    if not isinstance(flow, dict) or not all(isinstance(flow.get(name), dict) for name in ("coding", "parameters")):
        return "no coding and parameters of flow"
    numbers = {name: value for name, value in settings.items() if name != "flow"} | flow["parameters"] | flow["coding"]
    wrong = [name for name, value in numbers.items() if not isinstance(value, int | float)]
    return f"{wrong[0]} is no number" if wrong else "" if flow["coding"].get("bound", 0) > 0 else "no bound of flow"


def remove_command(root: str, *input_types: str) -> str:
    return shlex.join(
        ["python", "prep/verify.py", f"--root={root}", f"--input_types={','.join(input_types)}", "--remove"]
    )


def annotate_command(root: str) -> str:
    return shlex.join(["python", "prep/build_annotations.py", f"--root={root}", "--videos=VIDEOS"])


def delete_command(*paths: str | Path) -> str:
    return shlex.join(["rm", "-r", *map(str, paths)])


def remove(root: str | Path, findings: Iterable[Finding]) -> Iterator[tuple[str, str, bool]]:
    """Remove the videos that extraction can make again; yield input type, video id and whether it is gone.

    A video whose folder is a link stays, with what the link leads to.
    """
    for input_type, video_id in sorted({(t, f.video_id) for f in findings for t in f.remove}):
        store = open_store(root, input_type)
        linked = Path(store.where(video_id)).is_symlink()
        if not linked:
            store.remove(video_id)
        yield input_type, video_id, not linked
