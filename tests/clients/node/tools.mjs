import { Ollama } from "ollama";

const ollama = new Ollama({ host: process.argv[2] });
const parameters = {
  type: "object",
  properties: { city: { type: "string", description: "The city's name" } },
  required: ["city"],
};
const description = "Get the current weather of a city.";
const tools = [{ type: "function", function: { name: "get_weather", description, parameters } }];
const messages = [{ role: "user", content: "What is the weather in Paris?" }];
const request = { model: "demo", messages, tools, options: { temperature: 0 } };
const asked = await ollama.chat(request);
messages.push(asked.message);
messages.push({ role: "tool", tool_name: "get_weather", content: '{"temperature": 18, "condition": "sunny"}' });
const told = await ollama.chat(request);
console.log(JSON.stringify({ asked, told }));
