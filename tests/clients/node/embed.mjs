import { Ollama } from "ollama";

const ollama = new Ollama({ host: process.argv[2] });
const input = ["The train is late.", "The soup needs more salt."];
const many = await ollama.embed({ model: "demo-embed", input });
const one = await ollama.embed({ model: "demo-embed", input: input[0] });
const short = await ollama.embed({ model: "demo-embed", input: input[0], dimensions: 16 });
const legacy = await ollama.embeddings({ model: "demo-embed", prompt: input[0] });
console.log(JSON.stringify({ many, one, short, legacy }));
