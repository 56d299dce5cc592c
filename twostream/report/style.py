"""Style and script of the report's page. Without the script the page is complete; it adds sorting, search, choices between
tables, and a confusion matrix that can be read cell by cell."""

STYLE = """
:root { --first: var(--train); --second: var(--val); --fused: #0b7a5e; --third: #9c36b5; --fourth: #866300;
  --other: #5c6370; --right: 82 96 117; --wrong: 200 30 90; }
@media (prefers-color-scheme: dark) { :root { --fused: #3ecfa4; --third: #d59bf0; --fourth: #e0b84c; --other: #aab2bd;
  --right: 148 163 184; --wrong: 251 113 160; } }
html { scroll-behavior: smooth; scroll-padding-top: 3.5rem; }
body { padding: 0 1rem 2rem; }
header { padding: 1.25rem 0 .75rem; }
h1 { font-size: 1.5rem; letter-spacing: -.01em; }
h2 { font-size: 1.1rem; margin-bottom: .35rem; }
h3 { font-size: .95rem; margin: 1.25rem 0 .4rem; }
header p, section > p { max-width: 62rem; margin-bottom: .75rem; }
nav { position: sticky; top: 0; z-index: 3; background: var(--paper); border-bottom: 1px solid var(--rule);
  margin: 0 -1rem 1rem; padding: 0 1rem; overflow-x: auto; white-space: nowrap; scrollbar-width: none; }
nav a { display: inline-block; padding: .6rem 1.1rem .6rem 0; color: var(--quiet); text-decoration: none; font-size: .9rem; }
nav a:hover { color: var(--ink); }
a { color: var(--train); }
:focus-visible { outline: 2px solid var(--train); outline-offset: 1px; }
section { padding: 1rem 1.1rem 1.1rem; }
th, td, dd, h4, b, .isolate { unicode-bidi: isolate; }
thead th { vertical-align: bottom; color: var(--quiet); font-weight: 500; }
tbody th { font-weight: 500; }
tbody tr:last-child > * { border-bottom: 0; }
th, td { padding: .3rem 1.1rem .3rem 0; } th:last-child, td:last-child { padding-right: 0; }
small { color: var(--quiet); }
td small { display: block; font-size: .75rem; }
.scroll td { white-space: nowrap; } .scroll thead th { min-width: 3.4rem; }
.scroll th[scope=row] { position: sticky; left: 0; background: var(--card); white-space: normal; min-width: 9rem; }
.scroll th[scope=row] .dot { margin-left: -1rem; } .scroll th[scope=row]:has(.dot) { padding-left: 1rem; }
.first { --hue: var(--first); } .second-stream { --hue: var(--second); } .fused { --hue: var(--fused); }
.third { --hue: var(--third); } .fourth { --hue: var(--fourth); } .other { --hue: var(--other); }
.line:is(.first, .second-stream, .fused, .third, .fourth, .other) { stroke: var(--hue); }
.line.fused { stroke-width: 2.2; }
:is(circle, rect):is(.first, .second-stream, .fused, .third, .fourth, .other) { fill: var(--hue); }
rect:is(.first, .second-stream, .fused, .third, .fourth, .other) { fill-opacity: .75; }
rect.count { fill: var(--quiet); fill-opacity: .45; } .ideal { stroke: var(--ink); stroke-dasharray: 3 3; }
.dot { display: inline-block; width: .6rem; height: .6rem; border-radius: 50%; margin-right: .4rem; background: var(--hue); }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; margin: 0 0 1rem; }
.tile { flex: 1 1 9rem; min-width: 0; background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  border-top: 3px solid var(--hue); padding: .6rem .9rem .7rem; overflow-wrap: anywhere; }
.tile b { display: block; font-size: 1.7rem; line-height: 1.2; font-variant-numeric: tabular-nums; font-weight: 600; }
.tile.verdict { flex-grow: 3; --hue: var(--rule); } .tile.verdict b { font-size: 1.15rem; margin: .15rem 0 .2rem; }
.beside { display: grid; gap: 1.5rem; grid-template-columns: minmax(0, 1fr) minmax(0, 24rem); align-items: start; }
.beside.even { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); } .beside h3:first-child { margin-top: 0; }
.notes { display: block; margin: .75rem 0 1.25rem; } .notes li { padding: .1rem 0; overflow-wrap: anywhere; }
.panels { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); }
.panels h3 { margin-top: .25rem; } .panels > div { min-width: 0; max-width: 22rem; }
.chart { max-width: 34rem; }
.quadrants { border-spacing: .5rem; border-collapse: separate; width: 100%; margin: 0 -.5rem;
  table-layout: fixed; }
.quadrants tr > * { border: 0; padding: 0; } .quadrants thead th { text-align: center; color: var(--ink); }
.quadrants tbody th { width: 5.5rem; vertical-align: middle; } .quadrants thead th:first-child { width: 5.5rem; }
.quadrants tr > td, .quadrants tr:last-child > td { background: var(--paper); border: 1px solid var(--rule); border-radius: 8px; padding: .7rem .8rem; }
.quadrants td > b { font-size: 1.5rem; line-height: 1.2; margin-right: .4rem; font-weight: 600; }
.meter { display: flex; height: 8px; border-radius: 4px; overflow: hidden; margin: .45rem 0 .2rem; background: var(--rule); }
.meter i { background: rgb(var(--right)); } .meter i + i { background: rgb(var(--wrong)); }
.fusion { font-size: .8rem; color: var(--quiet); overflow-wrap: anywhere; }
.gallery { display: grid; gap: .9rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 16.5rem), 1fr)); }
article { background: var(--paper); border: 1px solid var(--rule); border-radius: 8px; padding: .7rem; min-width: 0; }
article:target { border-color: var(--train); box-shadow: 0 0 0 2px var(--train); }
article h4 { margin: 0 0 .35rem; font-size: .85rem; overflow-wrap: anywhere; font-weight: 600; }
article dl { display: grid; grid-template-columns: auto 1fr; gap: 0 .6rem; margin: 0 0 .5rem; font-size: .8rem; }
article dt { color: var(--quiet); } article dd { margin: 0; overflow-wrap: anywhere; }
.pictures { display: grid; grid-template-columns: 1fr 1fr; gap: .35rem; margin-bottom: .5rem; }
.pictures figure { margin: 0; min-width: 0; } .pictures img { width: 100%; display: block; border-radius: 4px;
  aspect-ratio: 4 / 3; object-fit: contain; background: var(--rule); }
figcaption, .none { font-size: .72rem; color: var(--quiet); } .none { padding: .2rem 0; }
.yes { color: rgb(var(--right)); font-weight: 700; } .no { color: rgb(var(--wrong)); font-weight: 700; }
.tall { max-height: 36rem; overflow: auto; } .tall thead th { position: sticky; top: 0; background: var(--card); z-index: 2; }
.classes { width: 100%; } .classes td { white-space: nowrap; } .classes td, .classes th { padding-right: .9rem; }
.classes tbody th { min-width: 7rem; max-width: 18rem; overflow-wrap: anywhere; }
.bar { display: grid; grid-template-columns: 2.9rem minmax(3rem, 1fr); align-items: center; gap: .4rem; min-width: 7rem; }
.bar::after { content: ""; height: .6rem; border-radius: 2px; background: linear-gradient(to right,
  color-mix(in srgb, var(--hue) 80%, transparent) var(--share), var(--rule) var(--share)); }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; text-align: inherit; }
th button::after { content: " \\2195"; opacity: .5; } th[aria-sort] button { color: var(--ink); }
th[aria-sort=ascending] button::after { content: " \\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: " \\2193"; opacity: 1; }
.tools { display: flex; flex-wrap: wrap; gap: .5rem .9rem; align-items: center; margin: .25rem 0 .75rem; font-size: .85rem; }
.tools label { display: flex; gap: .4rem; align-items: center; color: var(--quiet); }
input, select, .tools button { font: inherit; color: var(--ink); background: var(--paper); border: 1px solid var(--rule);
  border-radius: 6px; padding: .3rem .55rem; max-width: 100%; }
.tools button { cursor: pointer; } .tools button[aria-pressed=true] { background: var(--ink); color: var(--paper);
  border-color: var(--ink); }
.cells { border-collapse: separate; border-spacing: 2px; } .cells th, .cells td { border: 0; padding: 0; }
.cells thead th { writing-mode: vertical-rl; transform: rotate(180deg); padding: .35rem 0; max-height: 11rem; color: var(--ink);
  vertical-align: middle; text-align: left; } .cells thead th:first-child { writing-mode: initial; transform: none; }
.cells tbody th { padding-right: .6rem; text-align: right; position: sticky; left: 0; background: var(--card); max-width: 12rem;
  overflow-wrap: anywhere; }
.cells td { min-width: 2.6rem; height: 2.3rem; text-align: center; border-radius: 4px; background:
  rgb(var(--tone) / var(--share)); } .cells td.zero { color: var(--quiet); background: var(--paper); }
.cells td.strong { color: #fff; } .cells td.hit { --tone: var(--right); } .cells td.miss { --tone: var(--wrong); }
.heat { overflow: auto; max-height: 40rem; max-width: 100%; border: 1px solid var(--rule); border-radius: 4px; width: fit-content; }
.heat > div { position: relative; } .heat img, .heat canvas { display: block; max-width: none; image-rendering: pixelated;
  background: var(--paper); touch-action: pan-x pan-y pinch-zoom; cursor: crosshair; }
.heat img { width: min(40rem, 100%); } .heat i { position: absolute; pointer-events: none; border: 1px solid var(--ink); }
output { display: block; min-height: 3em; margin-top: .5rem; font-size: .9rem; overflow-wrap: anywhere; }
.scroll .provenance :is(td, th) { vertical-align: top; overflow-wrap: anywhere; white-space: normal; min-width: 8rem; max-width: 34rem; }
details { font-size: .85rem; overflow-wrap: anywhere; } summary { cursor: pointer; color: var(--quiet); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem; margin: 0; }
[hidden] { display: none !important; }
@media (prefers-color-scheme: dark) { .cells td.strong { color: #111418; } }
@media (max-width: 60rem) { .beside, .beside.even { grid-template-columns: minmax(0, 1fr); } }
@media (max-width: 30rem) { .scroll th[scope=row] { min-width: 6rem; max-width: 9rem; } section { padding: .8rem; } .quadrants tbody th, .quadrants thead th:first-child { width: 3.6rem; }
  .quadrants tr > td, .quadrants tr:last-child > td { padding: .5rem; } .quadrants td > b { display: block; } .tile b { font-size: 1.4rem; } }
@media print { nav, .tools { display: none; } .tall, .heat { max-height: none; overflow: visible; } section { break-inside: auto;
  background: none; } article, .panels > div, tr { break-inside: avoid; } body { max-width: none; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

SCRIPT = """
"use strict";
const make = (tag, properties, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

/* Tables: a click on a column head sorts, numbers first from the highest, texts first from A; long tables get a search. */
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  for (const head of table.tHead.rows[0].cells) {
    const button = make("button", {type: "button"}, ...head.childNodes);
    button.onclick = () => {
      const column = head.cellIndex, isText = !body.rows[0]?.cells[column].dataset.value;
      const before = head.ariaSort, isAscending = before ? before === "descending" : isText;
      for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
      head.ariaSort = isAscending ? "ascending" : "descending";
      const compare = isText ? (a, b) => a.localeCompare(b, undefined, {numeric: true}) : (a, b) => a - b;
      const rows = [...body.rows].sort((a, b) => (isAscending ? 1 : -1) * compare(value(a, column), value(b, column)));
      body.append(...rows);
    };
    head.replaceChildren(button);
  }
  if (body.rows.length > 12) {
    const field = make("input", {type: "search", placeholder: "part of a class name", size: 22});
    field.oninput = () => {
      for (const row of body.rows) row.hidden = !row.cells[0].textContent.toLowerCase().includes(field.value.toLowerCase());
    };
    table.parentElement.before(make("div", {className: "tools"}, make("label", {}, "search ", field)));
  }
}

/* Buttons of which one is pressed; show(index) is called for it. */
const choose = (names, chosen, show) => {
  const buttons = names.map((name, index) => make("button", {type: "button", textContent: name, onclick: () => press(index)}));
  const press = pressed => {
    buttons.forEach((button, index) => button.ariaPressed = String(index === pressed));
    show(pressed);
  };
  press(chosen);
  return buttons;
};

/* A group of similar tables shows one of them. */
for (const group of document.querySelectorAll(".choice")) {
  const parts = [...group.children];
  const show = chosen => parts.forEach((part, index) => part.hidden = index !== chosen);
  const first = Math.max(0, parts.findIndex(part => part.dataset.first !== undefined));
  if (parts.length > 1) group.before(make("div", {className: "tools"}, ...choose(parts.map(part => part.dataset.name), first, show)));
  for (const head of group.querySelectorAll("h3")) head.hidden = parts.length > 1;
}

/* The confusion matrix of many classes: the pictures' pixels in a chosen order, and the cell under the pointer in words. */
const maps = document.getElementById("maps");
if (maps) addEventListener("load", () => {  /* the pictures have been decoded */
  const data = JSON.parse(document.getElementById("confusion-data").textContent), size = data.classes.length;
  const images = [...maps.querySelectorAll("img")];
  const canvas = make("canvas", {width: size, height: size, tabIndex: 0, ariaLabel: "confusion matrix; the arrow keys move over its cells"});
  canvas.setAttribute("role", "img");
  const output = make("output", {}), mark = make("i", {hidden: true});
  const box = make("div", {className: "heat"}, make("div", {}, canvas, mark));
  const context = canvas.getContext("2d");
  const orders = Object.entries(data.orders);
  let row = Number(maps.dataset.first), order = orders[0][1], pixels = 1, cell = [0, 0];  /* pixels: side of a cell */
  const source = images.map(image => {
    const copy = make("canvas", {width: size, height: size}).getContext("2d");
    copy.drawImage(image, 0, 0);
    return new Uint32Array(copy.getImageData(0, 0, size, size).data.buffer);
  });
  const counts = data.rows.map(({cells}) => cells.map(line => {
    const byClass = new Map();
    for (let k = 0; k < line.length; k += 2) byClass.set(line[k], line[k + 1]);
    return byClass;
  }));
  const describe = () => {
    const [truth, predicted] = cell.map(index => order[index]), times = counts[row][truth].get(predicted) ?? 0;
    let total = 0;
    for (const number of counts[row][truth].values()) total += number;
    const share = total ? `, ${(100 * times / total).toFixed(1)} % of ${total}` : "";
    const verdict = truth === predicted ? "right" : "predicted as " + data.classes[predicted];
    output.textContent = `${data.rows[row].name}: ${data.classes[truth]} \\u2192 ${verdict}: ${times}${share}`;
    Object.assign(mark.style, {left: cell[1] * pixels - 1 + "px", top: cell[0] * pixels - 1 + "px", width: pixels + 2 + "px", height: pixels + 2 + "px"});
    mark.hidden = false;
  };
  const draw = () => {
    const target = context.createImageData(size, size), view = new Uint32Array(target.data.buffer);
    order.forEach((truth, i) => order.forEach((predicted, j) => view[i * size + j] = source[row][truth * size + predicted]));
    context.putImageData(target, 0, 0);
    mark.hidden = true;
    output.textContent = "Point at a cell, tap it, or move to it with the arrow keys.";
  };
  const zoom = side => {  /* 0: the whole matrix fits */
    const before = pixels, middle = [box.scrollLeft + box.clientWidth / 2, box.scrollTop + box.clientHeight / 2];
    pixels = side || Math.max(1, Math.min(12, (Math.min(maps.clientWidth, 640) - 2) / size));
    canvas.style.width = canvas.style.height = pixels * size + "px";
    box.scrollTo(middle[0] * pixels / before - box.clientWidth / 2, middle[1] * pixels / before - box.clientHeight / 2);
    if (!mark.hidden) describe();
  };
  const point = event => {
    const edge = canvas.getBoundingClientRect();
    cell = [event.clientY - edge.top, event.clientX - edge.left].map(length => Math.min(size - 1, Math.max(0, Math.floor(length / pixels))));
    describe();
  };
  canvas.onpointermove = canvas.onpointerdown = point;
  canvas.onkeydown = event => {
    const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
    if (!step) return;
    event.preventDefault();
    cell = cell.map((index, axis) => Math.min(size - 1, Math.max(0, index + step[axis])));
    describe();
    mark.scrollIntoView({block: "nearest", inline: "nearest"});
  };
  const orderField = make("select", {}, ...orders.map(([name]) => make("option", {textContent: name})));
  orderField.onchange = () => { order = orders[orderField.selectedIndex][1]; draw(); };
  const zoomField = make("select", {}, ...["whole matrix", "4 pixels a cell", "8 pixels a cell", "16 pixels a cell"].map(name => make("option", {textContent: name})));
  zoomField.onchange = () => zoom([0, 4, 8, 16][zoomField.selectedIndex]);
  const buttons = choose(data.rows.map(({name}) => name), row, index => { row = index; draw(); });
  maps.replaceChildren(make("div", {className: "tools"}, ...buttons, make("label", {}, "order ", orderField), make("label", {}, "zoom ", zoomField)), box, output);
  zoom(0);
  draw();
});
"""
