// The WebSocket protocol of FunASR's runtime: config, PCM packets, end, results.

import { Session } from "./session.js";
import { TARGET_RATE } from "./audio.js";
import { changesOf, speakerOf } from "./speakers.js";
import { grouped, joined, number, SENTENCE_END, spanOf, timedWords } from "./words.js";

const FRAME_MS = 60;

/** Some servers mark every sentence as the last one: more may follow, so wait this long for it. */
const GRACE_MS = 400;

/** How long one step of the model is, in milliseconds of audio. */
export function chunkMs({ chunkSize }) {
  return chunkSize[1] * FRAME_MS;
}

/** Samples of one packet: FunASR's clients send `chunk_interval` packets per chunk. */
export function packetSamples(options) {
  return Math.max(1, Math.round((chunkMs(options) * TARGET_RATE) / options.chunkInterval / 1000));
}

export class FunasrSession extends Session {
  name = "FunASR";
  partial = "";
  partialBegin = null;

  /** The protocol has no answer to its first message: audio follows at once. */
  open() {
    super.open();
    this.started();
  }

  hello() {
    const { mode, chunkSize, chunkInterval, name, speakers, model, hotwords } = this.options;
    const config = {
      mode,
      chunk_size: chunkSize,
      chunk_interval: chunkInterval,
      encoder_chunk_look_back: 4,
      decoder_chunk_look_back: 1,
      wav_name: name,
      wav_format: "pcm",
      audio_fs: TARGET_RATE,
      itn: true,
      is_speaking: true,
      ...(speakers ? { enable_speaker_diarization: true } : {}),
      ...(model ? { model } : {}),
      ...(hotwords ? { hotwords } : {}),
    };
    return [config];
  }

  farewell() {
    return [{ is_speaking: false }];
  }

  take(message) {
    if (message.error) {
      this.refused(message.error);
      return;
    }
    this.tellHotwords(message.hotwords);
    // SenseVoice puts tags such as <|zh|> in front of its text.
    const text = String(message.text ?? "").replace(/<\|[^|>]*\|>/g, "");
    if (message.mode === "offline") for (const whole of sentencesOf(text, message)) this.final(whole);
    else if (message.mode === "2pass-offline") this.final(sentence(text, message, timesOf(message)));
    else this.takePartial(text, message);
    if (this.ended && (message.is_final || message.mode === "offline")) {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.finish(), GRACE_MS);
      this.answered = true;
    }
  }

  takePartial(text, message) {
    const { begin, end } = timesOf(message);
    this.partial += text;
    this.partialBegin ??= begin;
    if (text) this.callbacks.onPartial({ text: this.partial, begin: this.partialBegin });
    if (message.is_final || message.slice_type === 2) {
      this.final(sentence(this.partial, message, { begin: this.partialBegin, end }));
    }
  }

  final(whole) {
    this.partial = "";
    this.partialBegin = null;
    this.callbacks.onFinal(whole);
  }

  lost(event) {
    if (this.answered) this.finish();
    else super.lost(event);
  }
}

function timesOf(message) {
  return { begin: number(message.start_time), end: number(message.end_time) };
}

function sentence(text, message, { begin, end }) {
  const pairs = pairsOf(message.timestamp);
  return {
    text,
    begin: begin ?? pairs[0]?.[0] ?? null,
    end: end ?? pairs.at(-1)?.[1] ?? null,
    words: timedWords(text, pairs),
    speaker: speakerOf(message.spk_name, message.spk_score),
    changes: changesOf(message),
  };
}

/** The sentences of an offline result, which covers the whole recording. */
function sentencesOf(text, message) {
  const whole = sentence(text, message, timesOf(message));
  const spoken = Array.isArray(message.sentence_info) ? message.sentence_info : [];
  if (spoken.some((info) => info.spk_name)) return spoken.map((info) => spokenSentence(info, whole.words));
  if (whole.words.length) return grouped(whole.words, SENTENCE_END).map(spanOf);
  const stamps = Array.isArray(message.stamp_sents) ? message.stamp_sents : [];
  if (!stamps.length) return [whole];
  return stamps.map(({ text_seg: tokens, punc, start, end }) => ({
    text: String(tokens ?? "").split(/\s+/).reduce(joined, "") + (punc ?? ""),
    begin: number(start),
    end: number(end),
    words: [],
  }));
}

/** A sentence of a recording in which speakers were told apart. */
function spokenSentence({ text, start, end, spk_name: name, spk_score: score }, words) {
  return {
    text: String(text ?? ""),
    begin: number(start),
    end: number(end),
    words: words.filter((word) => word.begin >= start && word.begin < end),
    speaker: speakerOf(name, score),
  };
}

/** `timestamp` is a JSON string of [begin, end] pairs; old servers send a list, or a number for none. */
function pairsOf(timestamp) {
  let pairs = timestamp;
  if (typeof timestamp === "string") {
    try {
      pairs = JSON.parse(timestamp);
    } catch {
      return [];
    }
  }
  const isPair = (pair) => Array.isArray(pair) && pair.length === 2 && pair.every(Number.isFinite);
  return Array.isArray(pairs) && pairs.every(isPair) ? pairs : [];
}
