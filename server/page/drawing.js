// Draws what /v1/script/explain returned: kept patches, relevance, and what another question changed.

const DIMMED = 0.22; // brightness of what was removed, as in the command's drawings
const HEAT = [[13, 8, 135], [126, 3, 168], [204, 71, 120], [248, 149, 64], [240, 249, 33]];
const STAYED = "#ffffff";
const NEW = "#35c46a";
const LEFT = "#f2733a";
const LONGEST = 720; // pixels of a drawing's longer side

/** A colour from irrelevant to relevant, of a value in [0, 1]. */
function heat(value) {
  const place = Math.min(Math.max(value, 0), 1) * (HEAT.length - 1);
  const below = Math.min(Math.floor(place), HEAT.length - 2);
  const mixed = HEAT[below].map((v, i) => Math.round(v + (place - below) * (HEAT[below + 1][i] - v)));
  return `rgb(${mixed.join(" ")})`;
}

/**
 * One view of a picture or a frame: where its patches lie, and what is known of each.
 * `first` is the number of its first patch.
 */
export class View {
  constructor(name, picture, explained, boxes, first) {
    Object.assign(this, { name, picture, boxes, first });
    this.width = explained.width;
    this.height = explained.height;
    this.whole = explained.left_whole;
    this.kept = new Set(explained.kept_patches ?? []);
    this.relevance = explained.patch_relevance;
  }

  isKept(place) {
    return this.whole || this.kept.has(this.first + place);
  }

  relevanceOf(place) {
    return this.relevance?.[this.first + place] ?? null;
  }

  /** Whether a patch shows something of the picture: padding, and newlines, do not. */
  isShown(place) {
    const [left, top, right, bottom] = this.boxes[place];
    return right > left && bottom > top;
  }

  get places() {
    return [...this.boxes.keys()].filter((place) => this.isShown(place));
  }

  get numKept() {
    return this.whole ? this.places.length : [...this.boxes.keys()].filter((place) => this.isKept(place)).length;
  }

  at(x, y) {
    return this.boxes.findIndex(([left, top, right, bottom]) =>
      left <= x && x < right && top <= y && y < bottom);
  }

  /** A new canvas with the picture, on white as the server puts what is transparent. */
  canvas() {
    const canvas = document.createElement("canvas");
    const scale = LONGEST / Math.max(this.width, this.height);
    canvas.width = Math.max(1, Math.round(this.width * scale));
    canvas.height = Math.max(1, Math.round(this.height * scale));
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = scale < 1;
    pen.fillStyle = "#ffffff";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(this.picture, 0, 0, canvas.width, canvas.height);
    return canvas;
  }

  /** The box of a patch in whole pixels of a canvas: left, top, width, height. */
  on(canvas, place) {
    const [left, top, right, bottom] = this.boxes[place];
    const x = Math.round((left / this.width) * canvas.width);
    const y = Math.round((top / this.height) * canvas.height);
    return [x, y, Math.round((right / this.width) * canvas.width) - x,
      Math.round((bottom / this.height) * canvas.height) - y];
  }
}

/** The picture with everything dark but the kept patches. */
export function drawKept(view) {
  if (view.whole) return view.canvas();
  const bright = view.canvas();
  const canvas = darkened(view);
  const pen = canvas.getContext("2d");
  for (const place of view.places.filter((each) => view.isKept(each))) {
    const box = view.on(canvas, place);
    if (box[2] > 0 && box[3] > 0) pen.drawImage(bright, ...box, ...box);
  }
  return canvas;
}

function darkened(view) {
  const canvas = view.canvas();
  const pen = canvas.getContext("2d");
  pen.fillStyle = `rgb(0 0 0 / ${1 - DIMMED})`;
  pen.fillRect(0, 0, canvas.width, canvas.height);
  return canvas;
}

/** The relevance of every patch, over a pale copy of the picture. */
export function drawHeat(view) {
  const canvas = view.canvas();
  const pen = canvas.getContext("2d");
  pen.globalCompositeOperation = "saturation";
  pen.fillStyle = "#808080";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.globalCompositeOperation = "source-over";
  pen.globalAlpha = 0.65;
  for (const place of view.places) {
    const value = view.relevanceOf(place);
    if (value === null) continue;
    pen.fillStyle = heat(value);
    pen.fillRect(...view.on(canvas, place));
  }
  return canvas;
}

/** The colours of the heat map, from low to high. */
export function drawScale() {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height, canvas.className] = [100, 1, "scale"];
  const pen = canvas.getContext("2d");
  for (let x = 0; x < 100; x++) {
    pen.fillStyle = heat(x / 99);
    pen.fillRect(x, 0, 1, 1);
  }
  return canvas;
}

/** What another question changed: new patches, those that left, and those that stayed. */
export function drawChange(view, before) {
  const canvas = darkened(view);
  const pen = canvas.getContext("2d");
  pen.lineWidth = 3;
  for (const place of view.places) {
    const [now, then] = [view.isKept(place), before.isKept(place)];
    if (!now && !then) continue;
    const [x, y, width, height] = view.on(canvas, place);
    pen.fillStyle = now ? (then ? STAYED : NEW) : LEFT;
    pen.globalAlpha = now && then ? 0.45 : 0.8;
    if (now) pen.fillRect(x + 1, y + 1, width - 2, height - 2);
    pen.strokeStyle = pen.fillStyle;
    if (!now) pen.strokeRect(x + 3, y + 3, width - 6, height - 6);
  }
  return canvas;
}
