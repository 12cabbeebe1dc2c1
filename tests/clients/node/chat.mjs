import { Ollama } from "ollama";

const ollama = new Ollama({ host: process.argv[2] });
const request = { model: "demo", messages: [{ role: "user", content: "Hello!" }], options: { temperature: 0 } };
const whole = await ollama.chat(request);
const parts = [];
for await (const part of await ollama.chat({ ...request, stream: true })) parts.push(part);
console.log(JSON.stringify({ whole, parts }));
