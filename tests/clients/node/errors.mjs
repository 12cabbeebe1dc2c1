import { Ollama } from "ollama";

const ollama = new Ollama({ host: process.argv[2] });
const messages = [{ role: "user", content: "Hello!" }];
const calls = {
  unknown: () => ollama.chat({ model: "nope", messages }),
  "unknown in a stream": () => ollama.chat({ model: "nope", messages, stream: true }),
  "no name": () => ollama.chat({ model: "", messages }),
  option: () => ollama.chat({ model: "demo", messages, options: { top_k: "many" } }),
};
const errors = {};
for (const [name, call] of Object.entries(calls)) {
  errors[name] = await call().then(() => null, ({ status_code, error }) => [status_code, error]);
}
console.log(JSON.stringify(errors));
