// Aliyun's NLS protocol: a task of SpeechTranscriber, sentence by sentence.

import { newId, Session } from "./session.js";
import { TARGET_RATE } from "./audio.js";
import { changesOf, speakerOf } from "./speakers.js";
import { number, placedWords } from "./words.js";

export class NlsSession extends Session {
  name = "Aliyun NLS";
  task = newId();
  begins = new Map();

  directive(name, payload = {}) {
    const header = { message_id: newId(), task_id: this.task, namespace: "SpeechTranscriber", name, appkey: "default" };
    return { header, payload };
  }

  hello() {
    const start = {
      format: "pcm",
      sample_rate: TARGET_RATE,
      enable_intermediate_result: true,
      enable_punctuation_prediction: true,
      enable_inverse_text_normalization: true,
      enable_words: true,
      ...(this.options.speakers ? { enable_speaker_diarization: true } : {}),
      ...(this.options.model ? { model: this.options.model } : {}),
      ...(this.options.hotwords ? { vocabulary_id: this.options.hotwords } : {}),
    };
    return [this.directive("StartTranscription", start)];
  }

  farewell() {
    return [this.directive("StopTranscription")];
  }

  take({ header, payload }) {
    const told = payload ?? {};
    switch (header?.name) {
      case "TranscriptionStarted":
        return this.started();
      case "SentenceBegin":
        return this.begins.set(told.index, number(told.time));
      case "TranscriptionResultChanged":
        return this.callbacks.onPartial({
          text: String(told.result ?? ""),
          begin: this.begins.get(told.index) ?? null,
        });
      case "SentenceEnd":
        return this.final(told);
      case "TranscriptionCompleted":
        return this.finish();
      case "TaskFailed":
        return this.refused(header.status_text ?? header.status);
      default:
        return this.strange();
    }
  }

  final(told) {
    const { index, result, begin_time: begin, time, words } = told;
    const text = String(result ?? "");
    this.tellHotwords(told.hotwords);
    const timed = (words ?? []).map((word) => ({ text: word.text, begin: word.startTime, end: word.endTime }));
    this.callbacks.onFinal({
      text,
      begin: number(begin) ?? this.begins.get(index) ?? null,
      end: number(time),
      words: placedWords(text, timed),
      speaker: speakerOf(told.speaker_id, told.speaker_confidence),
      changes: changesOf(told),
    });
    this.begins.delete(index);
  }
}
