// Shows what was answered and explained: numbers of both answers, what differs, patches, changes.

import { element, find } from "./dom.js";
import { drawChange, drawHeat, drawKept, drawScale, View } from "./drawing.js";

const MOST_WORDS = 400; // of an answer whose words are compared
const RULES = ["keep_ratio", "visual_token_budget", "mode", "relevance"]; // of a selection
const FRAME_SECONDS = 0.5; // that a frame of a video is shown for when it is played

const seconds = (milliseconds) =>
  milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(2)} s`;
const count = (number) => number.toLocaleString("en");

// Answers.

export function showAnswers(turns) {
  const turn = turns.at(-1);
  const differing = bothDone(turn) ? differingWords(turn.pruned.text.trim(), turn.whole.text.trim()) : {};
  for (const side of ["pruned", "whole"]) {
    const reply = turn[side] ?? { text: "" };
    const pane = find(side);
    const answer = pane.querySelector(".answer");
    answer.setAttribute("aria-busy", String(!reply.done && reply.refused === undefined));
    answer.classList.toggle("bad", reply.refused !== undefined);
    const words = differing[side] ?? [[reply.refused ?? reply.text.trimStart(), false]];
    answer.replaceChildren(...words.map(([text, differs]) =>
      differs ? element("mark", { textContent: text }) : text));
    pane.querySelector("dl").replaceChildren(...figures(reply).flatMap(([name, value]) =>
      [element("dt", { textContent: name }), element("dd", { textContent: value })]));
  }
  showVerdict(turns);
}

function figures({ promptTokens, firstToken, cachedTokens }) {
  const rows = [];
  if (promptTokens !== undefined) rows.push(["tokens in the prompt", count(promptTokens)]);
  if (cachedTokens) rows.push(["of these in the prefix cache", count(cachedTokens)]);
  if (firstToken !== undefined) rows.push(["time to first token", seconds(firstToken)]);
  return rows;
}

const bothDone = ({ pruned, whole }) => Boolean(pruned?.done && whole?.done);

function showVerdict(turns) {
  const { pruned, whole, caches } = turns.at(-1);
  find("verdict").hidden = !bothDone({ pruned, whole });
  if (find("verdict").hidden) return;
  const lines = [pruned.text.trim() === whole.text.trim()
    ? "Both answers are the same."
    : "The answers differ where words are marked."];
  lines.push(tokenLine(turns.at(-1)));
  lines.push(...timeLines(pruned, whole));
  const first = turns[0].pruned?.firstToken;
  if (turns.length > 1 && first) {
    lines.push(`The first question took ${seconds(first)} to its first token, this one ${seconds(pruned.firstToken)}.`);
  }
  lines.push(...cacheLines(caches));
  find("verdict").replaceChildren(...lines.map((text) => element("p", { textContent: text })));
}

/** What pruning saves of the prompt. In a chat the prompts may differ by earlier answers, too. */
function tokenLine({ pruned, whole, explained }) {
  const saved = whole.promptTokens - pruned.promptTokens;
  const items = explained ? [...explained.images, ...explained.videos] : [];
  const sum = (key) => items.reduce((total, item) => total + item[key], 0);
  const removed = sum("visual_tokens") - sum("kept");
  if (items.length && removed !== saved) {
    return `Pruning removes ${part(removed, sum("visual_tokens"))} visual tokens;`
      + " the prompts differ by the earlier answers, too.";
  }
  return `Pruning saves ${part(saved, whole.promptTokens)} tokens in the prompt.`;
}

const part = (some, all) => `${count(some)} of ${count(all)} (${Math.round((100 * some) / all)} %)`;

/** How much sooner the first token came, where the times show it: a cached prompt costs nothing. */
function timeLines(pruned, whole) {
  if (!pruned.firstToken || !whole.firstToken) return [];
  if ([pruned, whole].some(({ cachedTokens, promptTokens }) => cachedTokens > promptTokens / 2)) {
    return ["Of a prompt here the server's prefix cache had most from an earlier request,"
      + " so the times to the first token do not show what pruning saves."];
  }
  const ratio = whole.firstToken / pruned.firstToken;
  const sooner = ratio >= 1.05 ? `${ratio.toFixed(1)} times sooner` : "no sooner";
  return [`The first token came ${sooner} (${seconds(pruned.firstToken)}, not ${seconds(whole.firstToken)}).`];
}

/** Hits of the caches up to the first token: they are counted for the whole server. */
function cacheLines(caches) {
  if (!caches) return [];
  const [pixels, features] = caches;
  if (pixels + features === 0) return [];
  return ["Up to that token the server found in its caches: the encoder's features"
    + ` ${times(features)}, preprocessed pixels ${times(pixels)}.`];
}

const times = (number) => ["never", "once", "twice"][number] ?? `${number} times`;

/** Each answer as [text, whether the other answer lacks it], by their longest common words. */
function differingWords(pruned, whole) {
  const [a, b] = [pruned, whole].map((text) => text.split(/(?<=\s)/).slice(0, MOST_WORDS));
  const same = (i, j) => a[i].trim() === b[j].trim();
  const longest = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      longest[i][j] = same(i, j) ? 1 + longest[i + 1][j + 1] : Math.max(longest[i + 1][j], longest[i][j + 1]);
    }
  }
  const [inA, inB] = [new Set(), new Set()];
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    if (same(i, j)) {
      inA.add(i++);
      inB.add(j++);
    } else if (longest[i + 1][j] >= longest[i][j + 1]) i++;
    else j++;
  }
  return {
    pruned: a.map((word, i) => [word, !inA.has(i)]),
    whole: b.map((word, j) => [word, !inB.has(j)]),
  };
}

// Explanations.

/** What to show of every picture and video of the newest question: nodes. */
export async function explanation(turns, media) {
  const { explained } = turns.at(-1);
  const before = turns.at(-2)?.explained;
  const shown = [];
  for (const kind of ["image", "video"]) {
    const own = media.filter((item) => item.kind === kind);
    for (const [index, item] of (explained[`${kind}s`] ?? []).entries()) {
      const about = element("p", { className: "note", textContent: described(item) });
      const parts = await drawings(kind, item, before?.[`${kind}s`]?.[index], own[index]);
      shown.push(element("h3", { textContent: own[index].name }), about, ...parts);
    }
  }
  return shown;
}

/** The figures of an item; of a picture that the browser cannot read the server's own drawing. */
async function drawings(kind, item, old, own) {
  try {
    const views = await viewsOf(item, own);
    const change = old && (await changeSince(old, item, views, own));
    return kind === "image" ? pictureFigures(views, change) : filmFigures(views, change);
  } catch (error) {
    if (error.name !== "EncodingError") throw error;
    const alt = "The kept patches and their relevance, as the server draws them";
    return [element("img", { className: "sheet", src: `data:image/png;base64,${item.png}`, alt })];
  }
}

/** What changed since an earlier question: its views, and words. Nothing where none has patches. */
async function changeSince(old, item, views, own) {
  const before = await viewsOf(old, own);
  if ([...views, ...before].some(({ boxes }) => !boxes.length)) return undefined;
  const settings = RULES.every((name) => old[name] === item[name]) ? "" : " and its settings";
  return { before, words: `Since the last question${settings} ${changeOf(views, before)}` };
}

function described(item) {
  const size = `${item.width}×${item.height}, ${count(item.visual_tokens)} visual tokens`;
  if (item.left_whole) return `${size}, left whole.`;
  const rule = item.keep_ratio === null ? `budget ${item.visual_token_budget}` : `keep ratio ${item.keep_ratio}`;
  const { questions, source } = item.query;
  const text = source === "none"
    ? "chosen without a text"
    : `relevance from ${item.relevance}, chosen for ${questions.map((each) => `“${each}”`).join(" and ")}`;
  const left = item.tower_left === null ? "" : `, ${count(item.tower_left)} left by the vision tower`;
  return `${size}${left}, ${count(item.kept)} kept (${rule}), mode ${item.mode}, ${text}.`;
}

/** The views of a picture, or of each frame of a video; a video left whole has no patches. */
async function viewsOf(item, own) {
  let first = 0;
  const views = [];
  const parts = item.views.length ? item.views : [{ name: "frame", boxes: [] }];
  const pictures = item.frames ? item.frames.map((data) => `data:image/jpeg;base64,${data}`) : [own.thumbnail];
  for (const [index, url] of pictures.entries()) {
    const picture = await loaded(url);
    for (const { name, boxes } of parts) {
      const title = item.frames ? `frame ${index + 1}` : name;
      views.push(new View(title, picture, item, boxes, first));
      first += boxes.length;
    }
  }
  return views;
}

async function loaded(url) {
  const picture = new Image();
  picture.src = url;
  await picture.decode();
  return picture;
}

function pictureFigures(views, change) {
  const finest = views.reduce((best, view) => (view.places.length > best.places.length ? view : best));
  const drawn = views.map((view) => figure(view, drawKept(view), `${count(view.numKept)} kept of ${view.name}`));
  if (finest.relevance) {
    drawn.push(figure(finest, drawHeat(finest), "Relevance, from low to high", [drawScale()]));
  }
  if (change) {
    const old = change.before[views.indexOf(finest)];
    drawn.push(figure(finest, drawChange(finest, old), change.words));
  }
  return [element("div", { className: "figures" }, drawn)];
}

/** What another question changed, in words. */
function changeOf(views, before) {
  const kept = (all) => all.flatMap((view) =>
    view.places.filter((place) => view.isKept(place)).map((place) => view.first + place));
  const [now, then] = [kept(views), new Set(kept(before))];
  const stayed = now.filter((patch) => then.has(patch)).length;
  return `${count(stayed)} stayed (white), ${count(now.length - stayed)} are new`
    + ` (green), ${count(then.size - stayed)} left (orange frames)`;
}

/** A strip of the frames, what another question changed, and the frames played in one place. */
function filmFigures(views, change) {
  const frames = views.map(drawKept);
  const kept = views.map((view, index) => figure(view, frames[index],
    `${view.name}: ${view.whole ? "left whole" : `${count(view.numKept)} kept`}`));
  const parts = [element("div", { className: "strip" }, kept)];
  if (views[0].relevance) {
    const heat = views.map((view) => figure(view, drawHeat(view), `${view.name}: relevance`));
    parts.push(element("div", { className: "strip" }, heat));
  }
  if (change) parts.push(element("p", { textContent: `${change.words}.` }));
  return [player(views, frames), ...parts];
}

function player(views, frames) {
  const screen = element("canvas", { width: frames[0].width, height: frames[0].height });
  screen.setAttribute("role", "img");
  screen.setAttribute("aria-label", "The kept patches, frame by frame");
  const caption = element("figcaption", {});
  const show = (index) => {
    screen.getContext("2d").drawImage(frames[index], 0, 0);
    screen.dataset.frame = index;
    caption.textContent = `${views[index].name} of ${frames.length}`;
  };
  let timer = 0;
  const button = element("button", { type: "button", textContent: "Play" });
  button.addEventListener("click", () => {
    clearInterval(timer);
    const plays = button.textContent === "Play";
    button.textContent = plays ? "Stop" : "Play";
    if (!plays) return;
    let index = 0;
    timer = setInterval(() => {
      if (screen.isConnected) show(index++ % frames.length);
      else clearInterval(timer);
    }, 1000 * FRAME_SECONDS);
  });
  show(0);
  const stage = element("div", { className: "stage" }, [screen]);
  return element("figure", {}, [stage, caption, button]);
}

/** A drawing of a view whose patches can be pointed at, with the pointer or the arrow keys. */
function figure(view, canvas, caption, below = []) {
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${caption}. Move from patch to patch with the arrow keys.`);
  const frame = element("i", { hidden: true });
  let place = -1;
  const point = (next) => {
    place = next;
    frame.hidden = place < 0;
    if (place < 0) return;
    const [left, top, right, bottom] = view.boxes[place];
    Object.assign(frame.style, {
      left: `${(100 * left) / view.width}%`,
      top: `${(100 * top) / view.height}%`,
      width: `${(100 * (right - left)) / view.width}%`,
      height: `${(100 * (bottom - top)) / view.height}%`,
    });
    find("patch").textContent = spoken(view, place);
  };
  for (const event of ["pointermove", "pointerdown"]) { // a finger need not move
    canvas.addEventListener(event, ({ offsetX, offsetY }) =>
      point(view.at((offsetX / canvas.clientWidth) * view.width, (offsetY / canvas.clientHeight) * view.height)));
  }
  canvas.addEventListener("pointerleave", () => point(-1));
  canvas.addEventListener("blur", () => point(-1));
  canvas.addEventListener("keydown", (event) => {
    const next = neighbour(view, place, event.key);
    if (next === undefined) return;
    event.preventDefault();
    point(next);
  });
  const stage = element("div", { className: "stage" }, [canvas, frame]);
  return element("figure", {}, [stage, ...below, element("figcaption", { textContent: caption })]);
}

function spoken(view, place) {
  const value = view.relevanceOf(place);
  const relevance = value === null ? "no relevance was read" : `relevance ${value.toFixed(3)}`;
  return `Patch ${view.first + place} of ${view.name}: ${view.isKept(place) ? "kept" : "removed"}, ${relevance}.`;
}

/** The patch that an arrow key leads to: the one beside it; undefined for other keys. */
function neighbour(view, place, key) {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
  if (!step || !view.places.length) return undefined;
  if (place < 0) return view.places[0];
  const [left, top, right, bottom] = view.boxes[place];
  const x = (left + right) / 2 + step[0] * (right - left);
  const y = (top + bottom) / 2 + step[1] * (bottom - top);
  const next = view.at(x, y);
  return next < 0 ? place : next;
}
