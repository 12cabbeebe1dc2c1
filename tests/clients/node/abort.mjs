import { Ollama } from "ollama";

// Says how the stream ended, and stays: the connection is closed by abort() alone.
const ollama = new Ollama({ host: process.argv[2] });
const messages = [{ role: "user", content: "Sing the song that never ends." }];
const stream = await ollama.chat({ model: "demo", messages, stream: true, options: { temperature: 0 } });
try {
  let parts = 0;
  for await (const part of stream) {
    if (++parts === 5) ollama.abort();
  }
} catch (error) {
  console.log(error.name);
}
setInterval(() => {}, 60_000);
