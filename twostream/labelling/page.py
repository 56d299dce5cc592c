"""The page on which a person gives classes to videos: plain HTML with its style and script, which asks the server for the
rest. Each action is a button that shows its key; names from files are only ever shown as text."""

from twostream.labelling.pictures import colour_wheel
from twostream.pages.page import data_url, escape, page

BODY = """
<header><h1>{folder}</h1><p><span id="progress"></span> Saved in {table} after each change.</p></header>
<div id="columns">
<nav aria-label="Videos"><ol id="videos"></ol></nav>
<main>
<h2 id="name"></h2>
<p id="message" role="status" aria-live="polite">Loading ...</p>
<div id="pictures">
<figure><canvas id="rgb" role="img" aria-label="Picture"></canvas><figcaption id="moment"></figcaption></figure>
<figure id="flow-figure"><canvas id="flow" role="img" aria-label="Flow"></canvas>
<figcaption>flow: colour is direction, white is still <img id="wheel" alt="right red, down green, left cyan, up violet" src="{wheel}"></figcaption></figure>
</div>
<div id="track"><div id="marks" aria-hidden="true"></div><input id="position" type="range" min="0" value="0" aria-label="Position"></div>
<h3>Class</h3>
<div id="classes" role="group" aria-label="Classes"></div>
<form id="naming"><label>Another class <input id="class" type="text" list="names" maxlength="200" autocomplete="off"></label>
<datalist id="names"></datalist> <button>give it</button>
<label>Group <input id="group" type="text" maxlength="200" autocomplete="off" title="a person, a camera, a source: videos of one group stay on one side of training and validation"></label></form>
<h3>Segments</h3>
<div id="segments" role="group" aria-label="Classes that this video has"></div>
<h3>Keys</h3>
<div id="keys" role="group" aria-label="Actions and their keys"></div>
<p><label><input id="advance" type="checkbox" checked> go to the next video after a class for the whole video</label></p>
</main>
</div>
<noscript>This page needs JavaScript.</noscript>
<script nonce="{nonce}">{script}</script>
"""

STYLE = """
body { max-width: 100rem; } header p { margin: 0 0 .75rem; }
#columns { display: grid; gap: 1rem; grid-template-columns: minmax(11rem, 18rem) minmax(0, 1fr); }
main { display: block; min-width: 0; }
@media (max-width: 44rem) { #columns { grid-template-columns: 1fr; } #videos { max-height: 9rem !important; } }
h3 { font-size: .9rem; margin: .75rem 0 .25rem; } h2 { overflow-wrap: anywhere; }
button, input[type=text] { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--quiet);
  border-radius: 6px; padding: .25rem .6rem; }
button { cursor: pointer; } button[aria-pressed=true], [aria-current=true] > button { border-color: var(--train); box-shadow: inset 0 0 0 1px var(--train); }
:focus-visible { outline: 2px solid var(--train); outline-offset: 1px; }
kbd { font: inherit; font-weight: 600; border: 1px solid var(--rule); border-radius: 4px; padding: 0 .3rem; background: var(--paper); }
#videos { display: block; max-height: calc(100vh - 6rem); overflow-y: auto; margin: 0; }
#videos button { display: block; width: 100%; text-align: left; border-color: var(--rule); margin-bottom: .2rem; overflow-wrap: anywhere; }
#videos small { display: block; color: var(--quiet); } #videos .done small { color: var(--train); }
#message { min-height: 1.45em; margin: 0 0 .5rem; overflow-wrap: anywhere; } #message.error { color: var(--val); font-weight: 600; }
#pictures { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 16rem), 1fr)); max-width: 72rem; }
figure { margin: 0; } canvas { display: block; max-width: 100%; max-height: 38vh; width: 100%; object-fit: contain; background: var(--card); border: 1px solid var(--rule); }
figcaption { font-size: .8rem; color: var(--quiet); } #wheel { width: 1.6rem; height: 1.6rem; border-radius: 50%; vertical-align: middle; }
#track { position: relative; padding-top: 14px; max-width: 72rem; } #position { width: 100%; margin: 0; }
#marks { position: absolute; top: 0; left: 8px; right: 8px; height: 12px; background: var(--rule); border-radius: 3px; }
#marks i { position: absolute; top: 0; bottom: 0; min-width: 2px; background: var(--train); opacity: .6; }
#marks i.selected { opacity: 1; } #marks i.pending { background: var(--val); }
#classes, #keys, #segments { display: flex; flex-wrap: wrap; gap: .35rem; margin: 0; } #keys { font-size: .8rem; gap: .25rem; } #keys button { padding: .1rem .4rem; }
#naming { display: flex; flex-wrap: wrap; gap: .5rem; margin-top: .5rem; align-items: center; }
"""

SCRIPT = r"""
"use strict";
const $ = id => document.getElementById(id);
let videos = [], classes = [], facts = null;
let current = 0, frame = 0, clock = 0, speed = 1, isPlaying = true, showsFlow = true;
let selected = -1, mark = {};
let queue = Promise.resolve();
const chunks = new Map(), undoable = [], MAX_CHUNKS = 24;

// ---------------------------------------------------------------------------------------------------- the server

async function ask(path, body) {
  const request = body === undefined ? {} : {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)};
  let answer;
  try { answer = await fetch(path, request); }
  catch { throw new Error("No answer, and the last change is not saved: start twostream label again, and open the address that it prints."); }
  if (answer.ok) return answer.json();
  const error = new Error((await answer.text()).trim());
  error.status = answer.status;
  throw error;
}

function say(text, isError) {
  $("message").textContent = text;
  $("message").classList.toggle("error", Boolean(isError));
}

const inTurn = action => { queue = queue.then(action).catch(error => say(error.message, true)); };

async function refresh() {
  const state = await ask("state");
  videos = state.videos.map((video, index) => ({problem: videos[index]?.problem, ...video}));
  classes = state.classes;
  $("class").placeholder = state.can_add ? "known or new" : "";
  if (selected >= videos[current].entries.length) selected = -1;
  if (document.activeElement !== $("group")) $("group").value = videos[current].group;
  showLists();
}

/** Save the labels of a video; true if that was possible. What another window has changed is shown, and stays. */
async function save(index, entries, group, version) {
  try {
    Object.assign(videos[index], await ask("labels", {video: index, entries, group, version}));
    return true;
  } catch (error) {
    if (error.status === 409) await refresh();
    say(error.message, true);
    return false;
  } finally { showLists(); }
}

/** Change the entries of the video that is shown now, when earlier changes are saved. */
function edit(change, message, then) {
  const index = current, group = $("group").value.trim();
  inTurn(async () => {
    const video = videos[index], before = {entries: video.entries, group: video.group};
    const entries = change(video.entries.map(entry => [...entry]));
    if (!await save(index, entries, group, video.version)) return;
    undoable.push({index, ...before, version: videos[index].version});
    say(`${videos[index].name}: ${message}, saved`);
    if (then) then();
  });
}

function undo() {
  inTurn(async () => {
    const last = undoable.pop();
    if (!last) return say("Nothing to undo in this window");
    if (!await save(last.index, last.entries, last.group, last.version)) return;
    if (last.index !== current) show(last.index); else { $("group").value = last.group; select(-1); }
    say(`${videos[last.index].name}: last change undone, saved`);
  });
}

// --------------------------------------------------------------------------------------------- classes, segments

const timed = seconds => `${seconds.toFixed(2)} s`;
const inOrder = entries => entries.sort((a, b) => a[1] - b[1]);

function giveClass(name) {
  if (name === undefined) return;
  if (videos[current].problem) return say(`${videos[current].name}: ${videos[current].problem}; it gets no class`, true);
  if (selected >= 0) {
    const chosen = selected;
    edit(entries => { entries[chosen][0] = name; return entries; }, `segment ${chosen + 1} is ${name}`);
  } else if ("start" in mark && "end" in mark) {
    const {start, end} = mark;
    mark = {};
    edit(entries => inOrder([...entries, [name, start, end]]), `${timed(start)} to ${timed(end)} is ${name}`);
  } else if ("start" in mark || "end" in mark) {
    say(`Mark the ${"start" in mark ? "end ( ] )" : "start ( [ )"} of the segment too, or forget it (Esc)`, true);
  } else {
    edit(entries => [...entries.filter(entry => entry[1] !== null), [name, null, null]], name, $("advance").checked && nextOpen);
  }
}

function setMark(side) {
  if (!facts) return say("No segment can be marked before the video is shown", true);
  const seconds = Math.round(1000 * (side === "start" ? frame : frame + 1) / facts.rate) / 1000;
  if (selected >= 0) {
    const chosen = selected, place = side === "start" ? 1 : 2;
    if (videos[current].entries[chosen][place] === null) return say("This class is of the whole video: remove it (Delete) before you mark segments", true);
    return edit(entries => { entries[chosen][place] = seconds; return entries; }, `${side} of segment ${chosen + 1} is ${timed(seconds)}`);
  }
  if (videos[current].entries.some(entry => entry[1] === null)) return say("This video has a class as a whole: remove it (Delete) before you mark segments", true);
  const other = side === "start" ? mark.end : mark.start;
  if (other !== undefined && (side === "start" ? seconds >= other : seconds <= other)) mark = {};
  mark[side] = seconds;
  showSegments();
  say("start" in mark && "end" in mark ? `Segment from ${timed(mark.start)} to ${timed(mark.end)}: now its class`
    : `Segment ${side === "start" ? "starts" : "ends"} at ${timed(seconds)}`);
}

function select(index) {
  const entries = videos[current].entries;
  selected = index >= 0 && index < entries.length ? index : -1;
  if (selected >= 0) {
    mark = {};
    const [name, start, end] = entries[selected];
    if (start !== null && facts) moveTo(Math.round(start * facts.rate));
    say(`${start === null ? "Whole video" : `Segment ${selected + 1}, ${timed(start)} to ${timed(end)}`}, ${name}: selected`);
  }
  showSegments();
}

function selectNext(step) {
  const count = videos[current].entries.length;
  if (!count) return say("No segment");
  select(selected < 0 ? (step > 0 ? 0 : count - 1) : (selected + step + count) % count);
}

function remove() {
  const {entries} = videos[current];
  const chosen = selected >= 0 ? selected : entries.length === 1 && entries[0][1] === null ? 0 : -1;
  if (chosen < 0) return say(entries.length ? "Select a segment first (. or ,)" : "Nothing to remove");
  edit(all => all.filter((_, index) => index !== chosen), `${entries[chosen][0]} removed`);
  selected = -1;
}

function typedClass() {
  const name = $("class").value.trim();
  if (!name) return;
  inTurn(async () => {
    ({classes} = await ask("classes", {name}));
    showLists();
    $("class").value = "";
    $("class").blur();
    giveClass(name);
  });
}

// ------------------------------------------------------------------------------------------------------- pictures

/** A chunk of pictures, from the server or kept; `images` is null until they are there. */
function load(video, chunk, kind) {
  const key = `${video}/${chunk}/${kind}`;
  if (chunks.has(key)) return chunks.get(key);
  const entry = {images: null, error: ""};
  chunks.set(key, entry);
  for (const old of [...chunks.keys()].slice(0, -MAX_CHUNKS)) chunks.delete(old);
  const decoded = url => { const image = new Image(); image.src = url; return image.decode().then(() => image); };
  ask(`pictures?video=${video}&chunk=${chunk}&kind=${kind}`).then(urls => Promise.all(urls.map(decoded)))
    .then(images => { entry.images = images; }, error => { entry.error = error.message; })
    .finally(() => { if (video === current) draw(); });
  return entry;
}

function paint(canvas, image) {
  if (canvas.width !== image.naturalWidth) canvas.width = image.naturalWidth;
  if (canvas.height !== image.naturalHeight) canvas.height = image.naturalHeight;
  canvas.getContext("2d").drawImage(image, 0, 0);
}

/** Show the present frame; true if it is there. */
function draw() {
  if (!facts) return false;
  const chunk = Math.floor(frame / facts.chunk_len), place = frame % facts.chunk_len;
  const rgb = load(current, chunk, "rgb"), flow = showsFlow ? load(current, chunk, "flow") : null;
  const last = Math.floor((facts.frames - 1) / facts.chunk_len);
  if (rgb.images && chunk < last) { load(current, chunk + 1, "rgb"); if (showsFlow) load(current, chunk + 1, "flow"); }
  $("position").value = frame;
  $("position").setAttribute("aria-valuetext", timed(frame / facts.rate));
  $("moment").textContent = `${timed(frame / facts.rate)} of ${timed(facts.seconds)}, frame ${frame + 1} of ${facts.frames}${speed === 1 ? "" : `, at ${speed} of its speed`}`;
  if (rgb.error) { isPlaying = false; say(`${videos[current].name}: ${rgb.error}`, true); return false; }
  if (!rgb.images?.length) return false;
  const found = rgb.images.length;
  if (found < facts.chunk_len && chunk * facts.chunk_len + found < facts.frames) {  // it ends before its header says
    setFrames(Math.max(chunk * facts.chunk_len + found, 1));
    if (place >= found) { moveTo(facts.frames - 1); return false; }
  }
  paint($("rgb"), rgb.images[place]);
  const colours = flow && flow.images && flow.images[Math.floor(place / facts.flow_step)];
  if (colours) paint($("flow"), colours);
  return true;
}

function setFrames(count) {
  facts.frames = count;
  $("position").max = count - 1;
}

function moveTo(wanted) {
  if (!facts) return;
  frame = Math.min(Math.max(wanted, 0), facts.frames - 1);
  clock = 0;
  draw();
}

function step(frames) { isPlaying = false; moveTo(frame + frames); }

let lastTick = performance.now();
function tick(now) {
  const seconds = Math.min((now - lastTick) / 1000, .25);
  lastTick = now;
  if (isPlaying && facts && draw()) {
    const part = selected >= 0 ? videos[current].entries[selected] : null;
    const first = part && part[1] !== null ? Math.round(part[1] * facts.rate) : 0;
    const end = part && part[2] !== null ? Math.min(Math.round(part[2] * facts.rate), facts.frames) : facts.frames;
    for (clock += seconds * speed * facts.rate; clock >= 1; clock -= 1) frame = frame + 1 < end ? frame + 1 : first;
  }
  requestAnimationFrame(tick);
}

// --------------------------------------------------------------------------------------------------- what is shown

function button(text, onclick, key) {
  const made = document.createElement("button");
  made.type = "button";
  if (key) { const name = document.createElement("kbd"); name.textContent = key; made.append(name, " "); }
  made.append(text);
  // After a click, the next key is for the page again; who came with the tabulator stays on the button.
  made.onclick = event => { if (event.detail) made.blur(); onclick(); };
  return made;
}

const summary = video => video.problem ? "cannot be shown" : video.entries.length === 0 ? "no class"
  : video.entries[0][1] === null ? video.entries[0][0] : `${video.entries.length} segment${video.entries.length > 1 ? "s" : ""}`;

/** Replace the buttons of a group; the one that has the focus keeps it. */
function fill(group, buttons) {
  const place = [...group.children].indexOf(document.activeElement);
  group.replaceChildren(...buttons);
  group.children[place]?.focus();
}

function showLists() {
  const list = $("videos");
  videos.forEach((video, index) => {
    let item = list.children[index];
    if (!item) {
      item = document.createElement("li");
      const choose = button(video.name, () => show(index)), small = document.createElement("small");
      choose.append(small);
      item.append(choose);
      list.append(item);
    }
    item.querySelector("small").textContent = summary(video);
    item.className = video.entries.length ? "done" : "";
    item.setAttribute("aria-current", String(index === current));
  });
  const done = videos.filter(video => video.entries.length).length;
  $("progress").textContent = `${done} of ${videos.length} videos labelled.`;
  document.title = `${done}/${videos.length} labelled`;
  $("names").replaceChildren(...classes.map(name => new Option(name, name)));
  showSegments();
}

function showSegments() {
  const {entries} = videos[current], chosen = entries[selected >= 0 ? selected : entries.length === 1 ? 0 : -1];
  fill($("classes"), classes.map((name, index) => {
    const made = button(name, () => giveClass(name), index < 9 ? String(index + 1) : "");
    made.setAttribute("aria-pressed", String(Boolean(chosen) && chosen[0] === name));
    return made;
  }));
  if (!classes.length) $("classes").textContent = "No class yet: type the first one (key /).";
  fill($("segments"), entries.map(([name, start, end], index) => {
    const made = button(`${start === null ? "whole video" : `${timed(start)} to ${timed(end)}`}: ${name}`, () => select(index));
    made.setAttribute("aria-pressed", String(index === selected));
    return made;
  }));
  const bars = facts ? entries.filter(entry => entry[1] !== null).map((entry, index) => [entry[1], entry[2], index === selected ? "selected" : ""]) : [];
  if (facts && ("start" in mark || "end" in mark)) bars.push([mark.start ?? mark.end, mark.end ?? mark.start, "pending"]);
  $("marks").replaceChildren(...bars.map(([start, end, kind]) => {
    const bar = document.createElement("i");
    bar.className = kind;
    bar.style.left = `${100 * start / facts.seconds}%`;
    bar.style.width = `${Math.min(100 * (end - start) / facts.seconds, 100 - 100 * start / facts.seconds)}%`;
    return bar;
  }));
}

async function show(index) {
  current = index;
  facts = null; frame = 0; clock = 0; selected = -1; mark = {}; isPlaying = true;
  const video = videos[index];
  history.replaceState(null, "", `#${index + 1}`);
  $("name").textContent = video.name;
  $("group").value = video.group;
  $("moment").textContent = "";
  for (const name of ["rgb", "flow"]) $(name).getContext("2d").clearRect(0, 0, $(name).width, $(name).height);
  $("rgb").setAttribute("aria-label", `Picture of ${video.name}`);
  showLists();
  $("videos").children[index].scrollIntoView({block: "nearest"});
  try {
    const found = await ask(`facts?video=${index}`);
    if (current !== index) return;
    facts = found;
    setFrames(Math.max(Math.round(facts.seconds * facts.rate), 1));
    video.problem = "";
    showSegments();
    draw();
  } catch (error) {
    if (current !== index) return;
    video.problem = error.message;
    showLists();
    say(`${video.name}: ${error.message}`, true);
  }
}

function walk(stepBy) {
  const next = current + stepBy;
  if (next < 0 || next >= videos.length) return say(stepBy < 0 ? "This is the first video" : "This is the last video");
  say("");
  show(next);
}

function nextOpen() {
  const order = videos.map((_, index) => (current + 1 + index) % videos.length);
  const next = order.find(index => !videos[index].entries.length && !videos[index].problem);
  if (next === undefined) return say("All videos are labelled");
  if (next !== current) show(next);
}

// ----------------------------------------------------------------------------------------------------------- keys

const secondOf = () => facts ? Math.max(Math.round(facts.rate), 1) : 1;
const KEYS = [
  [" ", "space", "play or pause", () => { isPlaying = !isPlaying; }],
  ["ArrowLeft", "\u2190", "a frame back; with shift, a second", event => step(event && event.shiftKey ? -secondOf() : -1)],
  ["ArrowRight", "\u2192", "a frame on; with shift, a second", event => step(event && event.shiftKey ? secondOf() : 1)],
  ["ArrowUp", "\u2191", "previous video", () => walk(-1)],
  ["ArrowDown", "\u2193", "next video", () => walk(1)],
  ["n", "n", "next video without a class", nextOpen],
  ["[", "[", "a segment starts here", () => setMark("start")],
  ["]", "]", "a segment ends here", () => setMark("end")],
  [",", ",", "select the segment before", () => selectNext(-1)],
  [".", ".", "select the next segment", () => selectNext(1)],
  ["Escape", "esc", "forget marks and selection", () => { mark = {}; select(-1); say(""); }],
  ["Delete", "del", "remove the selected segment, or the class", remove],
  ["u", "u", "undo the last change of this window", undo],
  ["/", "/", "type a class", () => $("class").focus()],
  ["g", "g", "name the group, such as the person", () => $("group").focus()],
  ["s", "s", "slower: 1, 1/2, 1/4 of the speed", () => { speed = speed === .25 ? 1 : speed / 2; draw(); }],
  ["f", "f", "flow on or off", () => { showsFlow = !showsFlow; $("flow-figure").hidden = !showsFlow; draw(); }],
];

addEventListener("keydown", event => {
  const field = event.target;
  if (field.matches?.("input[type=text]")) {
    if (event.key === "Escape") field.blur();
    return;
  }
  // Some keyboards have [ and ] behind Alt; Alt with an arrow is the browser's.
  if (event.metaKey || (event.ctrlKey && !event.altKey) || (event.altKey && event.key.length > 1)) return;
  if (field.matches?.("button, input[type=checkbox]") && (event.key === " " || event.key === "Enter")) return;
  const wanted = event.key === "Backspace" ? "Delete" : event.key;
  const found = KEYS.find(([key]) => key === wanted);
  const digit = /^(?:Digit|Numpad)([1-9])$/.exec(event.code);
  if (!found && !digit) return;
  event.preventDefault();
  if (found) found[3](event); else giveClass(classes[digit[1] - 1]);
});

const digits = document.createElement("span");
digits.append(document.createElement("kbd"), " give the class of this number");
digits.firstChild.textContent = "1 \u2013 9";
$("keys").append(digits, ...KEYS.map(([, name, text, action]) => button(text, action, name)));
$("naming").onsubmit = event => { event.preventDefault(); typedClass(); };
$("position").oninput = () => { isPlaying = false; moveTo(Number($("position").value)); };
$("group").onkeydown = event => { if (event.key === "Enter") { event.preventDefault(); $("group").blur(); } };
$("group").onchange = () => {
  if (videos[current].entries.length) edit(entries => entries, `group ${$("group").value.trim() || "removed"}`);
  else say("The group is saved together with the class");
};
addEventListener("focus", () => inTurn(refresh));

inTurn(async () => {
  await refresh();
  const wanted = Number(location.hash.slice(1)) - 1;
  const open = videos.findIndex(video => !video.entries.length);
  say(open < 0 ? "All videos are labelled" : "");
  await show(wanted in videos ? wanted : Math.max(open, 0));
  requestAnimationFrame(tick);
});
"""


def to_html(folder: str, table: str, *, nonce: str) -> str:
    """The page for a folder of videos, whose labels are saved in the file `table`; `nonce` lets its script run."""
    body = BODY.format(
        folder=escape(folder),
        table=escape(table),
        wheel=data_url(colour_wheel(), "image/jpeg"),
        nonce=nonce,
        script=SCRIPT,
    )
    return page("twostream label", body, style=STYLE)
