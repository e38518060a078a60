// Calls a server with OpenAI's own client for Node and prints what it got, as JSON.
// Arguments: the base URL, and a recording.
import fs from "node:fs";
import OpenAI from "openai";

const [baseURL, recording] = process.argv.slice(2);
const client = new OpenAI({ apiKey: "any", baseURL, maxRetries: 0 });

const ask = (options) =>
  client.audio.transcriptions.create({ model: "whisper-1", file: fs.createReadStream(recording), ...options });

const formats = {};
for (const format of ["json", "text", "srt", "vtt", "verbose_json", "diarized_json"]) {
  formats[format] = await ask({ response_format: format });
}

const events = [];
for await (const event of await ask({ stream: true, include: ["logprobs"], languages: ["zh", "en"] })) {
  events.push(event);
}

const words = await ask({ response_format: "verbose_json", timestamp_granularities: ["word", "segment"] });

const chunked = await ask({
  chunking_strategy: { type: "server_vad", silence_duration_ms: 500, threshold: 0.5, prefix_padding_ms: 300 },
  keywords: ["ZyntriQix"],
  prompt: "a, b",
  temperature: 0,
});

let error;
try {
  await ask({ chunking_strategy: { type: "server_vad", threshold: 7 } });
} catch (caught) {
  error = { kind: caught.constructor.name, status: caught.status, code: caught.code, param: caught.param };
}

const models = [];
for await (const model of client.models.list()) {
  models.push(model.id);
}

console.log(JSON.stringify({ formats, events, words, chunked, error, models }));
