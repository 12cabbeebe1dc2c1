import { Ollama } from "ollama";

const ollama = new Ollama({ host: process.argv[2] });
const request = { model: "demo", options: { temperature: 0 } };
const loaded = await ollama.generate({ model: "demo" });
const whole = await ollama.generate({ ...request, prompt: "Hello!" });
const raw = await ollama.generate({ ...request, prompt: "Once upon a time", raw: true });
const parts = [];
for await (const part of await ollama.generate({ ...request, prompt: "Hello!", stream: true })) parts.push(part);
console.log(JSON.stringify({ loaded, whole, raw, parts }));
