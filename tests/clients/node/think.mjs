import { Ollama } from "ollama";

const ollama = new Ollama({ host: process.argv[2] });
const request = { model: "demo", messages: [{ role: "user", content: "Hello!" }], options: { temperature: 0 } };
const replies = {};
for (const think of [true, false, "low"]) replies[think] = (await ollama.chat({ ...request, think })).message;
console.log(JSON.stringify(replies));
