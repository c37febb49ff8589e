// The playground: what is chosen and asked here, what the server answers to it, and when it is asked.

import { element, find } from "./dom.js";
import { back, explain, Gone, hasKey, models, Refused, stats, stream, useKey } from "./request.js";
import { asCurl, asPython } from "./snippets.js";
import { explanation, showAnswers } from "./results.js";

const REST = 600; // ms without a change, after which settings are asked with
const MOST_TOKENS = 256; // of an answer
const MOST_BYTES = { image: 32e6, video: 64e6 };
const CHOICES = ["mode", "relevance", "conversation"];

const SAMPLE_QUESTION = find("question").placeholder;
const state = {
  model: "",
  settings: {}, // of the server
  media: [], // {name, type, kind, url, thumbnail}: url is the data URL that requests carry
  turns: [], // {question, pruned, whole, explained, caches}
  ownRatio: false, // whether the keep ratio was chosen here; until then it is the server's
  adding: Promise.resolve(), // until the files that were chosen are read
  running: null, // AbortController of what is being asked
  resting: 0, // timer of settings that were changed
};

// What is chosen.

function addFiles(files) {
  return (state.adding = state.adding.then(() => add(files)));
}

async function add(files) {
  const problems = [];
  for (const file of files) {
    const [kind, ending] = file.type.split("/");
    const name = file.name || `pasted.${ending}`;
    const most = MOST_BYTES[kind];
    if (!most) problems.push(`${name} is neither a picture nor a video.`);
    else if (file.size > most) {
      problems.push(`${name} has ${megabytes(file.size)}; this page sends at most ${megabytes(most)}. Choose a smaller one.`);
    } else {
      const url = await dataUrl(file).catch(() => null);
      if (url === null) problems.push(`${name} cannot be read. Choose it again.`);
      else {
        startOver();
        state.media.push({ name, type: file.type, kind, url, thumbnail: URL.createObjectURL(file) });
      }
    }
  }
  showMedia();
  say(problems.join(" "), problems.length > 0);
  if (!problems.length) find("question").focus();
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(0)} MB`;

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

function showMedia() {
  find("media").replaceChildren(...state.media.map((item, index) => {
    const shown = element(item.kind === "video" ? "video" : "img", { src: item.thumbnail, alt: item.name });
    const remove = element("button", { type: "button", textContent: "×" });
    remove.setAttribute("aria-label", `Remove ${item.name}`);
    remove.addEventListener("click", () => {
      URL.revokeObjectURL(item.thumbnail);
      state.media.splice(index, 1);
      startOver();
      showMedia();
      find("files").focus();
    });
    return element("li", {}, [shown, remove, element("span", { textContent: item.name })]);
  }));
}

async function useSample() {
  const blob = await fetch("script/scene.png").then((reply) => reply.ok && reply.blob()).catch(() => null);
  if (!blob) {
    say("The sample picture cannot be fetched. Is the server still there?", true);
    return;
  }
  find("question").value ||= SAMPLE_QUESTION;
  await addFiles([new File([blob], "scene.png", { type: blob.type })]);
}

function script() {
  const chosen = state.ownRatio ? { keep_ratio: Number(find("keep-ratio").value) } : {};
  for (const name of CHOICES) if (find(name).value) chosen[name] = find(name).value;
  return chosen;
}

// What is asked. The unpruned side of a chat has its own answers in it.

function request(side, turn, settings) {
  const turns = state.turns.slice(0, state.turns.indexOf(turn) + 1);
  const parts = state.media.map(({ kind, url }) => ({ type: `${kind}_url`, [`${kind}_url`]: { url } }));
  const messages = turns.flatMap(({ question, [side]: reply }, index) => {
    const text = { type: "text", text: question };
    const user = { role: "user", content: index ? question : [...parts, text] };
    return turns[index] === turn ? [user] : [user, { role: "assistant", content: reply?.text ?? "" }];
  });
  const { model } = state;
  return { model, messages, max_tokens: MOST_TOKENS, temperature: 0, script: settings };
}

async function ask() {
  const field = find("question");
  const question = field.value.trim();
  if (!question || find("submit").ariaDisabled === "true") return;
  field.value = "";
  await state.adding;
  if (!state.media.length) {
    field.value = question;
    say("Choose a picture first.", true);
    find("files").focus();
    return;
  }
  state.turns = state.turns.filter(({ pruned, whole }) => pruned?.done && whole?.done);
  state.turns.push({ question });
  field.placeholder = "Ask a second question about the same";
  answer();
}

function startOver() {
  state.running?.abort();
  clearTimeout(state.resting);
  state.turns = [];
  find("submit").ariaDisabled = null;
  find("question").placeholder = SAMPLE_QUESTION;
  find("results").hidden = find("restart").hidden = true;
  find("asked").replaceChildren();
}

/**
 * Answers the newest question. The pruned request goes first and alone; the explanation follows its
 * first token; the unpruned request, which is the same whatever the settings are, goes when both have
 * ended. So each time to the first token is that of a request alone.
 *
 * `again`: after a server that went away, which is waited for once.
 */
async function answer(again = false) {
  clearTimeout(state.resting);
  const turn = state.turns.at(-1);
  if (!turn) return;
  state.running?.abort();
  const running = (state.running = new AbortController());
  const { signal } = running;
  const settings = script();
  const started = new Set();
  let refusal = null;
  find("submit").ariaDisabled = "true"; // a chat has no unfinished answers
  showAsked();
  try {
    if (!state.model) await readServer();
    signal.throwIfAborted();
    turn.pruned = { text: "" };
    turn.explained = turn.caches = null;
    say("Asking with pruning …");
    const before = await stats();
    signal.throwIfAborted();
    const show = () => signal.aborted || showAnswers(state.turns);
    await firstToken(turn.pruned, (changed) =>
      stream(request("pruned", turn, settings), turn.pruned, signal, changed), show, started);
    turn.caches = foundInCaches(before, await stats()); // before the explanation, which finds more
    signal.throwIfAborted();
    say("Asking what is kept …");
    const explained = explain(request("pruned", turn, settings), signal, (seconds) =>
      say(`The server makes one explanation at a time, in order. Waiting for this one for ${seconds} s …`)
    ).then((result) => {
      turn.explained = result;
      return showExplanation(signal);
    }).catch((error) => {
      if (!(error instanceof Refused)) throw error;
      refusal = error; // is told when the answers are there
    });
    started.add(explained);
    await Promise.all(started);
    signal.throwIfAborted();
    if (!turn.whole?.done) {
      say("Asking without pruning …");
      turn.whole = { text: "" };
      await firstToken(turn.whole, (changed) =>
        stream(request("whole", turn, { keep_ratio: 1 }), turn.whole, signal, changed), show, started);
    }
    await Promise.all(started);
    if (refusal) throw refusal;
    show();
    say("Answered.");
  } catch (error) {
    if (!signal.aborted) await failed(error, signal, turn, again);
  } finally {
    if (!signal.aborted) find("submit").ariaDisabled = null;
  }
}

async function showExplanation(signal) {
  const nodes = await explanation(state.turns, state.media);
  if (signal.aborted) return;
  find("patch").textContent = "";
  find("shown").replaceChildren(...nodes);
}

/** Waits for a stream's first token, or its end; what the server refuses is shown as the answer. */
async function firstToken(reply, begin, show, started) {
  await new Promise((resolve, reject) => {
    const changed = () => {
      show();
      if (reply.text) resolve();
    };
    const ended = begin(changed).catch((error) => {
      if (!(error instanceof Refused) || error.status === 401) throw error;
      Object.assign(reply, { refused: error.message });
      show();
    });
    started.add(ended);
    ended.then(resolve, reject);
  });
}

/** How often our caches found an item in between; the counters are those of the whole server. */
function foundInCaches(before, after) {
  const hits = ({ metrics }, name) =>
    metrics.script_cache_hits_total?.find(({ cache }) => cache === name)?.value ?? 0;
  return ["pixels", "features"].map((name) => hits(after, name) - hits(before, name));
}

async function failed(error, signal, turn, again) {
  if (error instanceof Gone) {
    state.model = ""; // another one may come back
    if (again) {
      find("question").value ||= turn.question;
      say("The server went away twice. Press Ask to try once more.", true);
      return;
    }
    say("The server does not answer. This page looks for it every two seconds, and then asks again.", true);
    await back(signal).then(() => {
      say("The server is back. Asking again …");
      return answer(true);
    }, () => {});
  } else if (error.status === 401) {
    say("");
    find("key-note").textContent = hasKey()
      ? "The server does not take this key. Type the one that it was started with."
      : "This server wants the key it was started with. This page keeps it in memory alone.";
    find("key-note").classList.toggle("bad", hasKey());
    find("key-form").hidden = false;
    find("key").focus();
  } else {
    say(`${error instanceof Refused ? "The server refuses" : "This page failed"}: ${error.message}`, true);
  }
}

async function readServer() {
  const [model] = await models();
  const { settings } = await stats();
  state.model = model.id;
  state.settings = settings;
  find("key-form").hidden = true;
  find("model").textContent = `This server runs ${model.id}.` + (model.id === "script-demo"
    ? " It was trained on synthetic scenes: of a photograph it shows which patches stay, and answers nothing sensible." : "");
  const slider = find("keep-ratio");
  slider.min = settings.min_keep_ratio ?? slider.min;
  slider.max = settings.max_keep_ratio ?? slider.max;
  if (!state.ownRatio) slider.value = settings.keep_ratio ?? slider.value;
  for (const name of CHOICES) {
    find(name).options[0].textContent = `as the server: ${settings[name]}`;
  }
  showRatio();
}

async function start() {
  try {
    await readServer();
  } catch (error) {
    const wait = new AbortController();
    if (error instanceof Gone) {
      say("The server does not answer. This page looks for it every two seconds.", true);
      await back(wait.signal);
      say("");
      return start();
    }
    await failed(error, wait.signal);
  }
}

// What is shown beside the answers.

function say(text, bad = false) {
  find("status").textContent = text;
  find("status").classList.toggle("bad", bad);
}

function showAsked() {
  find("results").hidden = find("restart").hidden = false;
  find("asked").replaceChildren(...state.turns.map(({ question }) => element("li", { textContent: question })));
}

function showRatio() {
  const { keep_ratio, visual_token_budget } = state.settings;
  const percent = (ratio) => `${Number((100 * ratio).toFixed(1))} %`;
  const shown = state.ownRatio ? percent(find("keep-ratio").value)
    : "as the server" + (keep_ratio ? `: ${percent(keep_ratio)}` : visual_token_budget ? `: ${visual_token_budget} tokens` : "");
  find("ratio-shown").textContent = shown;
  find("keep-ratio").setAttribute("aria-valuetext", `${shown} of the visual tokens`);
}

// What is taken away: a link without the picture, and the request as commands.

function readLink() {
  const linked = new URLSearchParams(location.hash.slice(1));
  const ratio = Number(linked.get("keep_ratio"));
  state.ownRatio = ratio > 0 && ratio <= 1;
  if (state.ownRatio) find("keep-ratio").value = ratio;
  for (const name of CHOICES) {
    const value = linked.get(name);
    if ([...find(name).options].some((option) => option.value === value)) find(name).value = value;
  }
  find("question").value = linked.get("question") ?? "";
  showRatio();
}

function link() {
  const question = state.turns.at(-1)?.question ?? find("question").value;
  return `${location.href.split("#")[0]}#${new URLSearchParams({ ...script(), question })}`;
}

async function copy(text, what) {
  const area = find("copy");
  area.hidden = false;
  area.value = text;
  area.select();
  let done = false;
  try { // browsers let pages copy where they came over https, or from this machine
    await navigator.clipboard.writeText(text);
    done = true;
  } catch {
    done = document.execCommand("copy");
  }
  find("copied").textContent = done ? `${what} is copied.` : `${what} is selected below; copy it from there.`;
}

const base = () => new URL(".", location.href.split("#")[0]).href;
const current = () => request("pruned", state.turns.at(-1), script());

// Who does what.

find("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
find("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  useKey(find("key").value);
  find("key").value = "";
  await start();
  if (state.model) {
    find(state.turns.length ? "submit" : "files").focus();
    answer();
  }
});
for (const id of ["files", "camera"]) {
  find(id).addEventListener("change", async ({ target }) => {
    await addFiles([...target.files]);
    target.value = "";
  });
}
find("sample").addEventListener("click", useSample);
find("restart").addEventListener("click", () => {
  startOver();
  say("");
  find("question").focus();
});

function changed() {
  clearTimeout(state.resting);
  state.resting = setTimeout(answer, REST);
}
find("keep-ratio").addEventListener("input", () => {
  state.ownRatio = true;
  showRatio();
  changed();
});
for (const name of CHOICES) find(name).addEventListener("change", changed);

addEventListener("paste", ({ clipboardData }) => {
  if (clipboardData.files.length) addFiles([...clipboardData.files]);
});
addEventListener("dragover", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  find("drop").classList.add("over");
});
addEventListener("dragleave", () => find("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  find("drop").classList.remove("over");
  addFiles([...event.dataTransfer.files]);
});

find("copy-link").addEventListener("click", () => copy(link(), "The link"));
find("copy-curl").addEventListener("click", () => copy(asCurl(base(), current(), state.media), "The command"));
find("copy-python").addEventListener("click", () => copy(asPython(base(), current(), state.media), "The program"));

addEventListener("hashchange", readLink);

readLink();
start();
