// The protocol of funasr-api for Qwen3-ASR: segments, which a pause ends.

import { Session } from "./session.js";
import { TARGET_RATE } from "./audio.js";
import { number, placedWords } from "./words.js";

export class QwenSession extends Session {
  name = "Qwen3-ASR";

  hello() {
    const { hotwords } = this.options;
    const payload = { format: "pcm", sample_rate: TARGET_RATE, ...(hotwords ? { hotwords } : {}) };
    return [{ type: "start", payload }];
  }

  farewell() {
    return [{ type: "stop" }];
  }

  take(message) {
    switch (message.type) {
      case "started":
        return this.started();
      case "result":
        return this.partial(message.results ?? []);
      case "segment_end":
        this.tellHotwords(message.result?.hotwords);
        return this.segment(message.result ?? {}, message.result?.segment_text);
      case "segment_start":
        return undefined;
      case "final":
        this.tellHotwords(message.result?.hotwords);
        return this.last(message.result ?? {});
      case "error":
        return this.refused(message.message ?? message.error_code);
      default:
        return this.strange();
    }
  }

  partial(results) {
    const text = String(results.at(-1)?.current_segment_text ?? "");
    this.callbacks.onPartial({ text, begin: null });
  }

  segment({ begin_time: begin, end_time: end, words }, said) {
    const text = String(said ?? "");
    const timed = (words ?? []).map((word) => ({ text: word.text, begin: word.begin_time, end: word.end_time }));
    this.callbacks.onFinal({ text, begin: number(begin), end: number(end), words: placedWords(text, timed) });
  }

  /** The last segment is told here only; all others were told when they ended. */
  last({ text, segments }) {
    if (text) this.segment(segments?.at(-1) ?? {}, text);
    this.finish();
  }
}
