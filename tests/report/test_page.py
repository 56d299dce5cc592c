"""report.html in a parser and in a browser: its numbers, examples and pictures, and that it loads nothing from outside."""

import base64
import dataclasses
import html
import json
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from tests.browser import browse, photograph  # noqa: F401 (fixtures)
from tests.conftest import noise_image
from tests.tables import make_table
from twostream.flow.coding import ZERO, flow_colours
from twostream.frames.jpeg import encode_jpeg
from twostream.frames.stores import open_store
from twostream.fusion.consensus import Consensus, softmax
from twostream.metrics.accuracy import rank_of_truth
from twostream.report.example_videos import SHORT_SIDE, choose
from twostream.report.page import to_html, write_page
from twostream.report.results import COLUMNS, MORE_COLUMNS, build_report
from twostream.report.text import percent, sentences
from twostream.report.view import View

VOID = {"meta", "img", "input", "br"}


class Node:
    """An element of the page; text is an element with the tag "#"."""

    def __init__(self, tag, attributes, own_text=""):
        self.tag, self.attributes, self.children, self.own_text = tag, attributes, [], own_text

    def all(self, tag, **attributes):
        """Descendants with this tag and these attributes, in order; `kind` is one of their CSS classes."""
        kind = attributes.pop("kind", None)
        for child in self.children:
            if (
                child.tag == tag
                and all(child.attributes.get(k) == v for k, v in attributes.items())
                and (kind is None or kind in child.attributes.get("class", "").split())
            ):
                yield child
            yield from child.all(tag, **attributes | ({"kind": kind} if kind else {}))

    @property
    def text(self):
        return self.own_text + "".join(child.text for child in self.children)


class Tree(HTMLParser):
    """Parses a page; AssertionError if an element is not closed where it must be."""

    def __init__(self, text):
        super().__init__()
        self.root = Node("root", {})
        self.open = [self.root]
        self.feed(text)
        self.close()
        assert self.open == [self.root], [node.tag for node in self.open]

    def handle_starttag(self, tag, attributes):
        node = Node(tag, dict(attributes))
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag, attributes):
        self.open[-1].children.append(Node(tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data):
        self.open[-1].children.append(Node("#", {}, data))


def parse(text) -> Node:
    return Tree(text).root


def section(page: Node, name: str) -> Node:
    return next(page.all("section", id=name))


def rows_of(table: Node) -> list[list[str]]:
    return [[cell.text for cell in row.children] for row in next(table.all("tbody")).children]


CLASSES = tuple(f"class {k}" for k in range(6))


def streams(number=2, *, videos=40, classes=CLASSES, frames=3, seed=0, unscored=0.1, ids=None):
    """Tables of streams that are right for more than half of the videos; each lacks some videos."""
    rng = np.random.default_rng(seed)
    labels = np.arange(videos) % len(classes)
    ids = ids or [f"v{n:03d}" for n in range(videos)]
    tables = []
    for kind in ("rgb", "farneback", "dis")[:number]:
        video_logits = rng.normal(size=(videos, len(classes))) + 2.2 * (labels[:, None] == np.arange(len(classes)))
        scored = np.flatnonzero(rng.random(videos) >= unscored)
        index = np.repeat(scored, frames)
        logits = video_logits[index] + 0.5 * rng.normal(size=(len(index), len(classes)))
        table = make_table(logits, video_ids=ids, labels=labels, video_index=index, classes=classes, input_type=kind)
        tables.append(table)
    return tables


def build(tables, *, consensus="softmax-mean", weights=None, **options):
    names = ["RGB", "Flow", "DIS"][: len(tables)]
    weights = weights or (1.0,) * len(tables)
    return build_report(tables, names, consensus=Consensus.parse(consensus), weights=weights, **options)


OPTIONS = [
    (1, {}),
    (2, {}),
    (2, {"consensus": "mean", "weights": (1.0, 2.0), "swept": True}),
    (2, {"fit": ("global", "class")}),
    (3, {"weights": (1.0, 1.0, 0.5)}),
]


@pytest.mark.parametrize(("number", "options"), OPTIONS)
def test_numbers_are_those_of_the_report(number, options):
    report = build(streams(number), **options)
    page = parse(to_html(report))
    result = section(page, "result")
    tables = list(result.all("table"))
    assert [cell.text for cell in tables[0].all("th")][1 : 1 + 9] == [*(COLUMNS | MORE_COLUMNS).values()]
    for row, cells in zip(report.rows, rows_of(tables[0]), strict=True):
        expected = []
        for key in COLUMNS | MORE_COLUMNS:
            low_high = getattr(row, f"{key}_interval", None)
            expected.append(percent(getattr(row, key)) + (" to ".join(map(percent, low_high)) if low_high else ""))
        assert cells == [row.name, *expected]
    for row, cells in zip(report.rows, rows_of(tables[1]), strict=True):
        assert cells[3:] == [f"{percent(r.video_top1)}of {r.num_videos}" for r in row.denominators.values()]
        assert cells[2] == f"{row.num_videos - row.num_unscored} of {row.num_videos}"
    for sentence in sentences(report):
        assert sentence in result.text
    for name, ids in report.unscored.items():
        assert (
            f"{name}: {len(ids)} video{'s' * (len(ids) != 1)} without scores" in result.text and ids[0] in result.text
        )
    calibration = section(page, "calibration")
    errors = [small.text for small in calibration.all("small")]
    assert errors == [f"calibration error {percent(row.calibration_error)} %" for row in report.rows]
    shown = [int(title.text.split()[0]) for title in calibration.all("title")]
    assert sum(shown) == sum(row.num_videos - row.num_unscored for row in report.rows)


@pytest.mark.parametrize(("number", "options"), OPTIONS)
def test_classes_and_confusion_show_all_rows(number, options):
    report = build(streams(number), **options)
    page, predictions = parse(to_html(report)), report.predictions
    table = next(section(page, "classes").all("table"))
    cells = rows_of(table)
    matrices = {
        part.attributes["data-name"]: rows_of(part)
        for part in section(page, "confusion").all("div")
        if "data-name" in part.attributes
    }
    assert list(matrices) == [row.name for row in report.rows]
    for column, row in enumerate(report.rows):
        scores = predictions.scores[row.name]
        is_correct = rank_of_truth(scores, predictions.labels) == 1
        accuracies = [np.mean(is_correct[predictions.labels == k]) for k in range(6)]
        assert [line[2 + column] for line in cells] == [f"{100 * value:.1f}" for value in accuracies]
        assert np.mean(accuracies) == pytest.approx(row.mean_class_accuracy)
        expected = np.zeros((6, 6), int)
        for label, line in zip(predictions.labels, scores, strict=True):
            if not np.isnan(line).any():
                expected[label, line.argmax()] += 1
        assert [line[1:] for line in matrices[row.name]] == [[str(n) for n in line] for line in expected]
    if number > 1:
        best = report.comparisons[0].against
        gains = [float(line[-1]) for line in cells]
        exact = [(np.mean((rank_of_truth(predictions.scores[report.rows[number].name], predictions.labels) == 1)[predictions.labels == k])
                  - np.mean((rank_of_truth(predictions.scores[best], predictions.labels) == 1)[predictions.labels == k])) for k in range(6)]  # fmt: skip
        assert gains == pytest.approx(100 * np.array(exact), abs=0.051)


@pytest.mark.parametrize(("number", "options"), OPTIONS)
def test_every_example_is_in_its_quadrant(number, options):
    report = build(streams(number), **options)
    videos, predictions = section(parse(to_html(report)), "videos"), report.predictions
    is_correct = {name: rank_of_truth(scores, predictions.labels) == 1 for name, scores in predictions.scores.items()}
    names = [row.name for row in report.rows[:number]]
    scored_by_all = ~np.any([np.isnan(predictions.scores[name]).any(axis=1) for name in names], axis=0)
    quadrants = {}
    for head, gallery in zip(list(videos.all("h3"))[1:], videos.all("div", kind="gallery"), strict=False):
        title, _, count = head.text.rpartition(": ")
        quadrants[title] = int(count.split()[0]), [int(card.attributes["id"][6:]) for card in gallery.all("article")]
    assert len(quadrants) == (2 if number == 1 else 4)
    main = report.rows[number].name if number > 1 else names[0]
    total = sum(count for count, _ in quadrants.values())
    for cell, (title, (count, indices)) in zip(videos.all("td"), quadrants.items(), strict=True):
        assert cell.text.startswith(f"{count}{100 * count / total:.1f} %")
        mask = scored_by_all.copy()
        for word, name in zip(title.split(", "), names, strict=False):
            mask &= is_correct[name] == (word == f"{name} right")
        assert count == mask.sum() and mask[indices].all() and len(indices) == min(4, count)
        of_fusion = f"{main}: {(is_correct[main] & mask).sum()} right, {(~is_correct[main] & mask).sum()} wrong"
        assert number == 1 or of_fusion in [line.text for line in cell.all("div", kind="fusion")]
    for card in videos.all("article"):
        index = int(card.attributes["id"][6:])
        assert next(card.all("h4")).text == predictions.video_ids[index]
        facts = [fact.text for fact in card.all("dd")]
        assert facts[0] == predictions.classes[predictions.labels[index]]
        for fact, name in zip(facts[1:], [*names, main][: number + (number > 1)], strict=True):
            best = predictions.scores[name][index].argmax()
            assert fact.startswith(f"{'✓' if is_correct[name][index] else '✗'} {predictions.classes[best]} ")


def test_with_three_streams_the_page_says_how_quadrants_are_made():
    text = section(parse(to_html(build(streams(3)))), "videos").text
    assert "With 3 streams, the first two that were given make the quadrants, because" in text


def test_links_of_confused_pairs_lead_to_their_examples():
    report = build(streams(videos=120))
    page, predictions = parse(to_html(report)), report.predictions
    cards = {card.attributes["id"] for card in page.all("article")}
    assert len(cards) == len(list(page.all("article"))), "one card for each video"
    (table,) = section(page, "confusion").all("table", kind="pairs")
    best = predictions.scores["RGB+Flow"].argmax(axis=1)
    rows = next(table.all("tbody")).children
    assert len(rows) > 3
    for row in rows:
        truth, predicted, times, _, _ = (cell.text for cell in row.children)
        (link,) = row.all("a")
        assert link.attributes["href"][1:] in cards
        index = int(link.attributes["href"][7:])
        assert (predictions.classes[predictions.labels[index]], predictions.classes[best[index]]) == (truth, predicted)
        assert link.text == predictions.video_ids[index]
        is_scored = ~np.isnan(predictions.scores["RGB+Flow"]).any(axis=1)
        pair = (
            (predictions.labels == predictions.classes.index(truth))
            & (best == predictions.classes.index(predicted))
            & is_scored
        )
        assert int(times) == pair.sum()
    assert all(
        link.attributes["href"][1:] in {s.attributes["id"] for s in page.all("section")}
        for link in next(page.all("nav")).all("a")
    )


def test_choice_of_examples():
    """Half wrong and half right, the most confident of each class first, and the same each time."""
    report = build(streams(videos=60, unscored=0))
    outcomes = View(report, None).outcomes["RGB+Flow"]
    chosen = choose(np.ones(60, bool), outcomes, 8)
    assert chosen == choose(np.ones(60, bool), outcomes, 8)
    assert outcomes.is_correct[chosen].tolist() == [False] * 4 + [True] * 4
    for part in (chosen[:4], chosen[4:]):
        assert len(set(outcomes.labels[part])) == 4
        same = outcomes.is_correct == outcomes.is_correct[part[0]]
        best = [outcomes.confidence[same & (outcomes.labels == k)].max(initial=0) for k in range(6)]
        assert outcomes.confidence[part].tolist() == sorted(best)[::-1][:4]
    assert choose(np.zeros(60, bool), outcomes, 8) == []
    assert (
        len(choose(outcomes.is_correct, outcomes, 8)) == 8
        and outcomes.is_correct[choose(outcomes.is_correct, outcomes, 8)].all()
    )


def curve_values(card: Node) -> list[list[float]]:
    """Values of the curves of a card: for each row first the dashed, then the solid one."""
    lines = []
    rules = [float(line.attributes["y1"]) for line in card.all("line", kind="rule")]
    for number, line in enumerate(list(card.all("polyline"))):
        floor, top = rules[2 * (number // 2) : 2 * (number // 2) + 2]
        ys = [float(point.split(",")[1]) for point in line.attributes["points"].split()]
        lines.append([(floor - y) / (floor - top) for y in ys])
    return lines


@pytest.mark.parametrize("consensus", ["softmax-mean", "mean"])
def test_curves_are_the_probabilities_of_the_frames(consensus):
    tables = streams(unscored=0)
    report = build(tables, consensus=consensus, weights=(1.0, 3.0))
    predictions = report.predictions
    for card in section(parse(to_html(report)), "videos").all("article"):
        index = int(card.attributes["id"][6:])
        logits = [table.logits[table.video_index == index].astype(float) for table in tables]
        fused = softmax(logits[0] / 4 + 3 * logits[1] / 4) if consensus == "mean" else None
        fused = softmax(logits[0]) / 4 + 3 * softmax(logits[1]) / 4 if fused is None else fused
        rows = [softmax(logits[0]), softmax(logits[1]), fused]
        label = predictions.labels[index]
        curves = curve_values(card)
        for number, (name, probabilities) in enumerate(zip(("RGB", "Flow", "RGB+Flow"), rows, strict=True)):
            others = predictions.scores[name][index].copy()
            others[label] = -np.inf
            assert curves[2 * number + 1] == pytest.approx(probabilities[:, label], abs=0.005)
            assert curves[2 * number] == pytest.approx(probabilities[:, others.argmax()], abs=0.005)
        assert [t.text for t in card.all("text")][-2:] == ["1", "5"]  # frame indices 0, 2, 4 are files 1, 3, 5


def test_accuracy_over_frames_and_sweep():
    report = build(streams(), swept=True)
    frames = section(parse(to_html(report)), "frames")
    tables = list(frames.all("table"))
    assert len(tables) == 4
    curve = {(p.name, p.num_frames): p.video_top1 for p in report.sweep if p.num_frames}
    for count, *values in rows_of(tables[0]):
        assert values == [f"{100 * curve[name, int(count)]:.2f}" for name in ("RGB", "Flow", "RGB+Flow")]
    grid = {(p.name, p.consensus, p.frame_stride): p.video_top1 for p in report.sweep if not p.num_frames}
    shown = [cell for table in tables[1:] for row in rows_of(table) for cell in row[1:]]
    assert len(shown) == len(grid) and sorted(shown) == sorted(percent(value) for value in grid.values())
    plain = section(parse(to_html(build(streams()))), "frames")
    assert rows_of(next(plain.all("table"))) == rows_of(tables[0]) and len(list(plain.all("table"))) == 1


def test_map_of_many_classes():
    classes = tuple(f"class {k}" for k in range(45))
    report = build(streams(videos=400, classes=classes))
    page, predictions = parse(to_html(report)), report.predictions
    data = json.loads(next(page.all("script", id="confusion-data")).text)
    assert data["classes"] == list(classes) and [row["name"] for row in data["rows"]] == list(predictions.scores)
    assert all(sorted(order) == list(range(45)) for order in data["orders"].values()) and len(data["orders"]) == 3
    pictures = [image.attributes["src"] for image in section(page, "confusion").all("img")]
    for row, picture in zip(data["rows"], pictures, strict=True):
        expected = np.zeros((45, 45), int)
        for label, line in zip(predictions.labels, predictions.scores[row["name"]], strict=True):
            if not np.isnan(line).any():
                expected[label, line.argmax()] += 1
        found = np.zeros_like(expected)
        for i, line in enumerate(row["cells"]):
            found[i, line[::2]] = line[1::2]
        np.testing.assert_array_equal(found, expected)
        pixels = cv2.imdecode(np.frombuffer(base64.b64decode(picture.split(",")[1]), np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(pixels[..., 3] > 0, expected > 0)


# --------------------------------------------------------------------------------------------- nothing from outside

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><b>",
    "a & b",
    "\"quoted' name",
    "naïve 動作 \u202eabc",
    "lone \udc80\x00x",
]


def check_self_contained(text: str) -> None:
    """There is no address from which a browser would load anything."""
    outside = re.sub(r"data:image/\w+;base64,[\w+/=]+", "", text)
    assert not re.findall(r"https?:|url\(|@import|srcset|<link|<iframe|<object|<base", outside)
    assert "//" not in re.sub(r"/\*.*?\*/", "", outside)
    for node in parse(text).all("img"):
        assert node.attributes["src"].startswith("data:image/") and node.attributes["alt"]
    assert "default-src 'none'" in text


@pytest.mark.parametrize("repeat", [1, 6])
def test_all_text_is_escaped_and_nothing_is_loaded(tmp_path, repeat):
    """With few classes, which are in a table, and with more, whose names are data of the script."""
    classes = tuple(f"{name}{k or ''}" for k in range(repeat) for name in HOSTILE)
    ids = sorted(f"{name.replace(chr(0), '')} {n}" for n in range(10) for name in HOSTILE)
    tables = streams(videos=60, classes=classes, ids=ids)
    tables[0].provenance["command"] = HOSTILE[0]
    names = ["<i>RGB", "Flow\"'&"]
    report = build_report(tables, names, consensus=Consensus.parse("mean"), weights=(1, 1))
    write_page(tmp_path / "r.html", report, command="eval.py '<script>'", files=["<a>", "b"])
    text = (tmp_path / "r.html").read_text("utf-8")
    check_self_contained(text)
    page = parse(text)
    assert len(list(page.all("script"))) == (1 if repeat == 1 else 2) and "alert(1)</script>" not in text
    shown = {row[0] for row in rows_of(next(section(page, "classes").all("table")))}
    assert {"<script>alert(1)</script>", "</script><b>", "a & b", "\"quoted' name", "lone \ufffd\ufffdx"} <= shown
    assert [row[0] for row in rows_of(next(page.all("table")))] == [*names, "+".join(names)]
    assert "eval.py '<script>'" in section(page, "provenance").text
    if repeat > 1:
        named = json.loads(next(page.all("script", id="confusion-data")).text)["classes"]
        assert named[:3] == HOSTILE[:3]


def test_the_page_is_the_same_each_time():
    pages = [re.sub(r"written</th><td>[^<]*", "", to_html(build(streams()))) for _ in range(2)]
    assert pages[0] == pages[1]


def test_provenance_shows_all_that_is_known():
    tables = streams()
    tables[1].provenance.update({"views": "ten", "command": "python test.py --x", "odd": {"a": 1}, "sha256": "ab" * 32})
    rows = rows_of(list(section(parse(to_html(build(tables), files=["a.npz", "b.npz"])), "provenance").all("table"))[1])
    facts = {row[0]: row[1:] for row in rows}
    assert facts["views"] == ["-", "ten"] and facts["odd"] == ["-", '{"a": 1}'] and facts["sha256"][1] == "ab" * 32
    assert facts["score file"] == ["a.npz", "b.npz"] and facts["split fingerprint"][0] == tables[0].split_fingerprint
    assert list(facts).index("sha256") < list(facts).index("command") < list(facts).index("odd")


# ------------------------------------------------------------------------------------------------------------ edges


def test_without_labels_there_are_only_result_and_provenance():
    table = make_table(labels=(-1, -1, -1), split="test")
    page = parse(to_html(build([table], unlabelled=True)))
    assert [part.attributes["id"] for part in page.all("section")] == ["result", "provenance"]
    assert "0 videos with a label" in next(page.all("header")).text


def test_streams_without_a_common_video_have_empty_quadrants():
    rgb, flow = streams(frames=1, unscored=0)
    video = {"level": "video"}
    parts = [dataclasses.replace(t, provenance=t.provenance | video, logits=t.logits[s], video_index=t.video_index[s],
                                 start=t.start[s], view=t.view[s])
             for t, s in ((rgb, slice(0, 20)), (flow, slice(20, 40)))]  # fmt: skip
    videos = section(parse(to_html(build(parts))), "videos")
    assert videos.text.count("No videos.") == 4 and "40 videos without such scores left out" in videos.text


@pytest.mark.parametrize("level", ["video", "clips"])
def test_tables_of_other_toolkits(level):
    tables = streams(frames=1 if level == "video" else 3)
    tables[1] = dataclasses.replace(tables[1], provenance={"kind": "another toolkit", "level": level})
    page = parse(to_html(build(tables)))
    card = next(section(page, "videos").all("article"))
    assert len(list(card.all("polyline"))) == (
        2 if level == "video" else 4
    )  # no fused frames, and whole videos have no frames
    assert "another toolkit" in section(page, "provenance").text
    alone = dataclasses.replace(tables[1], provenance={"kind": "another toolkit", "level": "video"})
    if level == "video":
        page = parse(to_html(build([alone])))
        assert "there is no curve" in section(page, "frames").text
        assert not list(next(page.all("article")).all("polyline"))


def test_one_class_one_video_and_views():
    table = make_table(np.ones((2, 1)), video_ids=("a",), labels=(0,), video_index=[0, 0], start=[0, 0], classes=("x",))
    table = dataclasses.replace(table, view=np.array([0, 1], np.int16))
    page = parse(to_html(build([table])))
    assert rows_of(next(section(page, "confusion").all("table", kind="cells"))) == [["x", "1"]]
    assert "predicted a wrong class for no video" in page.text


# --------------------------------------------------------------------------------------------------------- pictures


def fill(root, kind, video_ids, *, store="folders", step=1):
    for number, video_id in enumerate(video_ids):
        with open_store(root, kind, kind=store).writer(video_id) as writer:
            for k in range(0, 6, step):
                image = np.full((240, 320, 3), (40 * k + 10, 60, 90), np.uint8)
                if kind != "rgb":
                    # Planes: 120 rows of x (right), 120 rows of y (down)
                    image = np.full((240, 320), ZERO + 60, np.uint8)
                writer.write(k, encode_jpeg(image, quality=90, chroma_subsampling=False))
            writer.publish({"num_frames": 6, "settings": {"frame_step": step}, "number": number})


@pytest.mark.parametrize("store", ["folders", "packed"])
def test_pictures_show_the_frame_in_their_caption(tmp_path, store):
    tables = streams(videos=12, unscored=0)
    fill(tmp_path, "rgb", tables[0].video_ids.tolist(), store=store)
    fill(tmp_path, "farneback", tables[0].video_ids.tolist()[1:], store=store, step=2)
    text = to_html(build(tables), root=tmp_path)
    check_self_contained(text)
    missing = 0
    for card in parse(text).all("article"):
        rgb, flow = card.all("figure")
        frame = int(rgb.text.rsplit(" ", 1)[1])
        (image,) = rgb.all("img")
        pixels = decoded(image.attributes["src"])
        assert min(pixels.shape[:2]) == SHORT_SIDE and pixels.shape[1] == 160
        assert np.abs(pixels.mean(axis=(0, 1)) - (40 * (frame - 1) + 10, 60, 90)).max() < 4
        if next(card.all("h4")).text == tables[0].video_ids[0]:
            assert "no readable image" in flow.text
            missing += 1
            continue
        (image,) = flow.all("img")
        expected = flow_colours(np.full((1, 1, 3), ZERO + 60, np.uint8))[0, 0]
        assert np.abs(decoded(image.attributes["src"]).mean(axis=(0, 1)) - expected).max() < 6
    assert missing <= 1


def decoded(source: str) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(source.split(",")[1]), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(float)


def test_unreadable_pictures_do_not_stop_the_page(tmp_path):
    tables = streams(videos=6, unscored=0)
    for video_id in tables[0].video_ids:
        folder = tmp_path / "rgb-images" / video_id
        folder.mkdir(parents=True)
        for k in range(1, 7):
            (folder / f"{k:05d}.jpg").write_bytes(encode_jpeg(noise_image(), quality=80, chroma_subsampling=True)[:-40])
    page = parse(to_html(build(tables), root=tmp_path))
    cards = list(page.all("article"))
    assert cards and all("no readable image" in card.text for card in cards) and not list(page.all("figure", alt=""))


@pytest.mark.parametrize(("has_root", "reason"), [(False, "give the data root with --root=DIR"), (True, "has none")])
def test_without_images_the_page_says_so(tmp_path, has_root, reason):
    videos = section(parse(to_html(build(streams()), root=tmp_path if has_root else None)), "videos")
    assert f"No pictures: {html.escape(str(tmp_path)) if has_root else ''}" in videos.text and reason in videos.text
    assert not list(videos.all("img")) and list(videos.all("polyline"))
