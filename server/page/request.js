// Talks to the server: documented routes alone, with the key that was typed, which only lives here.

const GONE_PAUSE = 2000; // ms between looks for a server that is gone
const BUSY_PAUSE = 1000; // ms before another try, where the server names none
const WAITED = 2000; // ms after which the wait for an explanation is told
const UNREACHABLE = [502, 503, 504];

let key = "";

export function useKey(typed) {
  key = typed;
}

export function hasKey() {
  return key !== "";
}

/** The server answered that it does not do this. */
export class Refused extends Error {
  constructor(status, message, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** The server did not answer at all, or a proxy answered that it cannot reach it. */
export class Gone extends Error {}

async function call(path, body, signal) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const options = { headers, signal, cache: "no-store" };
  if (body) {
    headers["Content-Type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  }
  const reply = await answering(() => fetch(path, options));
  if (reply.ok) return reply;
  if (UNREACHABLE.includes(reply.status)) throw new Gone("the server does not answer");
  const text = await answering(() => reply.text());
  const reason = reasonIn(text) || reply.statusText || `HTTP ${reply.status}`; // HTTP/2 has no text
  throw new Refused(reply.status, reason, reply.headers.get("Retry-After"));
}

/** The result of `work`, whose network errors are a server that is gone. */
async function answering(work) {
  try {
    return await work();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Gone("the server does not answer");
  }
}

function reasonIn(text) {
  try {
    const { error } = JSON.parse(text);
    return error.message ?? error;
  } catch {
    return "";
  }
}

/** The name of the first model, and the settings and metrics of the server. */
export async function models() {
  return (await json("v1/models")).data;
}

export async function stats() {
  return json("v1/script/stats");
}

async function json(path, body, signal) {
  const reply = await call(path, body, signal);
  return answering(() => reply.json());
}

/**
 * What is kept of the request's media. The server makes one explanation at a time, in the order in
 * which they are asked for, and refuses where too many wait: then this asks again. `waiting` is told
 * for how many seconds already.
 */
export async function explain(body, signal, waiting) {
  const started = performance.now();
  const tell = () => signal.aborted || waiting(Math.round((performance.now() - started) / 1000));
  const telling = setInterval(tell, WAITED);
  try {
    for (;;) {
      try {
        return await json("v1/script/explain", body, signal);
      } catch (error) {
        if (error.status !== 429) throw error;
        tell();
        await pause(1000 * error.retryAfter || BUSY_PAUSE, signal);
      }
    }
  } finally {
    clearInterval(telling);
  }
}

/**
 * Streams an answer into `reply`: its `text`, `promptTokens`, `cachedTokens`, and `firstToken`, the
 * milliseconds from sending the request to the first token. `changed` is called with every piece.
 */
export async function stream(body, reply, signal, changed) {
  const started = performance.now();
  const streamed = { ...body, stream: true, stream_options: { include_usage: true } };
  const answer = await call("v1/chat/completions", streamed, signal);
  for await (const chunk of events(answer)) {
    if (chunk.error) throw new Refused(chunk.error.code, chunk.error.message);
    const piece = chunk.choices?.[0]?.delta?.content;
    if (piece) {
      reply.firstToken ??= performance.now() - started;
      reply.text += piece;
    }
    if (chunk.usage) {
      reply.promptTokens = chunk.usage.prompt_tokens;
      reply.cachedTokens = chunk.usage.prompt_tokens_details?.cached_tokens;
    }
    changed();
  }
  reply.done = true;
  changed();
}

/** The JSON of server-sent events, until `[DONE]`. */
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await answering(() => reader.read());
    if (done) throw new Gone("the server went away in the middle of an answer");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines.map((each) => each.trim())) {
      if (line === "data: [DONE]") return;
      if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
    }
  }
}

/** Resolves once the server answers again, be it to want a key. */
export async function back(signal) {
  for (;;) {
    await pause(GONE_PAUSE, signal);
    try {
      await call("v1/models", undefined, signal);
      return;
    } catch (error) {
      if (error instanceof Refused) return;
      if (!(error instanceof Gone)) throw error;
    }
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal.addEventListener("abort", stop, { once: true });
  });
}
