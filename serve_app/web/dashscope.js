// DashScope's protocol of Paraformer's and Fun-ASR's realtime models: one task on one connection.

import { newId, Session } from "./session.js";
import { TARGET_RATE } from "./audio.js";
import { changesOf, speakerOf } from "./speakers.js";
import { number, placedWords } from "./words.js";

export class DashscopeSession extends Session {
  name = "DashScope";
  task = newId();

  message(action, payload) {
    return { header: { action, task_id: this.task, streaming: "duplex" }, payload: { ...payload, input: {} } };
  }

  hello() {
    const task = {
      task_group: "audio",
      task: "asr",
      function: "recognition",
      // A name that the server does not know means its default.
      model: this.options.model || "fun-asr-realtime",
      parameters: {
        format: "pcm",
        sample_rate: TARGET_RATE,
        ...(this.options.speakers ? { diarization_enabled: true } : {}),
        ...(this.options.hotwords ? { vocabulary_id: this.options.hotwords } : {}),
      },
    };
    return [this.message("run-task", task)];
  }

  farewell() {
    return [this.message("finish-task", {})];
  }

  take({ header, payload }) {
    switch (header?.event) {
      case "task-started":
        return this.started();
      case "result-generated":
        return this.result(payload?.output?.sentence ?? {});
      case "task-finished":
        return this.finish();
      case "task-failed":
        return this.refused(header.error_message ?? header.error_code);
      default:
        return this.strange();
    }
  }

  result(sentence) {
    const { text, begin_time: begin, end_time: end, heartbeat, sentence_end: ended, words } = sentence;
    if (heartbeat) return;
    this.tellHotwords(sentence.hotwords);
    const told = { text: String(text ?? ""), begin: number(begin) };
    if (ended === false || number(end) === null) {
      this.callbacks.onPartial(told);
      return;
    }
    const timed = (words ?? []).map((word) => ({ text: word.text, begin: word.begin_time, end: word.end_time }));
    const speaker = speakerOf(sentence.speaker_id, sentence.speaker_confidence, sentence.speaker_name);
    const found = { words: placedWords(told.text, timed), speaker, changes: changesOf(sentence) };
    this.callbacks.onFinal({ ...told, end, ...found });
  }
}
