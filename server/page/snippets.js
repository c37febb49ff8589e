// The request of an answer as a command, with the names of files in the place of their contents.

/** The body with a mark for the contents of each file: no text that is typed has a NUL. */
function marked(body, media) {
  const urls = new Map(media.map((item, index) => [item.url, `\0${index}\0`]));
  const mark = (name, value) => (typeof value === "string" && urls.get(value)) || value;
  return JSON.stringify(body, mark, 2);
}

const MARK = /"\\u0000(\d+)\\u0000"/g;

/** A shell command. In the here-document the shell fills in files, and nothing that was typed. */
export function asCurl(base, body, media) {
  const json = marked(body, media)
    .replace(/[$`]|\\(?!u0000)/g, "\\$&")
    .replace(MARK, (_, index) => {
      const { name, type } = media[index];
      const path = `'${name.replaceAll("'", `'\\''`)}'`;
      return `"data:${type};base64,$(base64 < ${path} | tr -d '\\n')"`;
    });
  return `curl ${base}v1/chat/completions \\
  -H "Content-Type: application/json" -H "Authorization: Bearer $OPENAI_API_KEY" \\
  -d @- <<END_OF_REQUEST
${json}
END_OF_REQUEST`;
}

/** A program with the openai client. JSON without true, false and null is Python too. */
export function asPython(base, body, media) {
  const { script, ...own } = body;
  const argument = ([name, value]) => {
    const json = marked(value, media).replace(MARK, (_, index) => {
      const { name, type } = media[index];
      return `data_url(${JSON.stringify(name)}, ${JSON.stringify(type)})`;
    });
    return `    ${name}=${json.replaceAll("\n", "\n    ")},`;
  };
  return `import base64
import os

from openai import OpenAI


def data_url(path, kind):
    with open(path, "rb") as file:
        return f"data:{kind};base64,{base64.b64encode(file.read()).decode()}"


client = OpenAI(
    base_url=${JSON.stringify(base + "v1")}, api_key=os.environ.get("OPENAI_API_KEY", "none")
)
reply = client.chat.completions.create(
${[...Object.entries(own), ["extra_body", { script }]].map(argument).join("\n")}
)
print(reply.choices[0].message.content)`;
}
