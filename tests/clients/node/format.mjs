import { Ollama } from "ollama";

const ollama = new Ollama({ host: process.argv[2] });
const text = { type: "string" };
const format = { type: "object", properties: { city: text, country: text }, required: ["city", "country"] };
const messages = [{ role: "user", content: "Give me a city as JSON." }];
const reply = await ollama.chat({ model: "demo", messages, format, options: { temperature: 0 } });
console.log(JSON.stringify(JSON.parse(reply.message.content)));
