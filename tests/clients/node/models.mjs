import { Ollama } from "ollama";

const ollama = new Ollama({ host: process.argv[2] });
await ollama.generate({ model: "demo" });
const [list, show, ps] = [await ollama.list(), await ollama.show({ model: "demo" }), await ollama.ps()];
console.log(JSON.stringify({ list, show, ps, version: await ollama.version() }));
