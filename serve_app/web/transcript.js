// What has been recognized: sentences with times, the text that may still change, and SubRip of both.
// All times are milliseconds from the beginning of the audio.

import { Speakers } from "./speakers.js";
import { grouped, joined, SENTENCE_END, spanOf } from "./words.js";

const CJK = "[\\p{Script=Han}\\p{Script=Hiragana}\\p{Script=Katakana}ー々〇]";
const WIDE = new RegExp(`${CJK}|[\\u3000-\\u303f\\uff00-\\uff60]`, "u");
const CLAUSE_END = /[，。？！、；：,.?!;:…]["”’」』）)]*\s*$/u;

const CUE_COLUMNS = 42;
const CUE_MAX_MS = 7_000;
const CUE_MIN_MS = 800;

/** Confidence below which it could as well have been somebody else. */
const UNSURE = 0.5;

export class Transcript {
  constructor() {
    this.sentences = [];
    this.partial = "";
    this.speakers = new Speakers();
  }

  /** All of it; with `texts`, which name them, on a line of its own for each speaker. */
  text(texts) {
    const parts = [...this.sentences, { text: this.partial, speaker: null }].filter(({ text }) => text);
    const lines = [];
    for (const { text, speaker } of parts) {
      if (lines.length && lines.at(-1).speaker === speaker) lines.at(-1).text = joined(lines.at(-1).text, text);
      else lines.push({ text, speaker });
    }
    const headed = ({ text, speaker }) => (speaker === null ? text : `${this.speakers.label(speaker, texts)}: ${text}`);
    return lines.map(headed).join("\n");
  }

  /** Adds a sentence. `heard` is how much audio had been sent by then: for servers that give no times. */
  add({ text, begin, end, words, speaker = null, changes = [] }, heard) {
    this.partial = "";
    for (const change of changes) this.change(change);
    if (!text.trim()) return;
    const earliest = this.sentences.at(-1)?.end ?? 0;
    const known = begin !== null && end !== null && end > begin;
    this.sentences.push({
      text: text.trim(),
      begin: known ? begin : earliest,
      end: known ? end : Math.max(heard, earliest + 1),
      words,
      estimated: !known,
      speaker: speaker && this.speakers.add(speaker),
      unsure: speaker !== null && speaker.confidence < UNSURE,
    });
  }

  change({ from, to }) {
    this.speakers.change({ from, to });
    for (const sentence of this.sentences) if (sentence.speaker === from) sentence.speaker = to;
  }

  /**
   * SubRip: short cues, cut at punctuation where the words' times are known. Where speakers are, `texts` name
   * them at the head of each sentence.
   */
  srt(texts) {
    const cues = this.sentences.flatMap((sentence) => this.headed(cuesOf(sentence), sentence, texts));
    return cues
      .map(({ text, begin, end }, i) => {
        const next = cues[i + 1]?.begin ?? Infinity;
        const last = Math.max(begin + 1, Math.min(Math.max(end, begin + CUE_MIN_MS), next));
        return `${i + 1}\n${clock(begin)} --> ${clock(last)}\n${text}\n`;
      })
      .join("\n");
  }

  headed(cues, { speaker }, texts) {
    if (speaker === null) return cues;
    const [first, ...others] = cues;
    return [{ ...first, text: `[${this.speakers.label(speaker, texts)}] ${first.text}` }, ...others];
  }
}

function cuesOf(whole) {
  if (!whole.words.length) return [whole];
  return grouped(whole.words, SENTENCE_END).flatMap((words) => {
    const cues = [];
    for (const piece of grouped(words, CLAUSE_END).flatMap(halved)) {
      if (cues.length && fits([...cues.at(-1), ...piece])) cues.at(-1).push(...piece);
      else cues.push([...piece]);
    }
    return cues.map((cue) => ({ ...spanOf(cue), text: spanOf(cue).text.trim() }));
  });
}

function halved(words) {
  if (words.length === 1 || fits(words)) return [words];
  const middle = Math.ceil(words.length / 2);
  return [...halved(words.slice(0, middle)), ...halved(words.slice(middle))];
}

function fits(words) {
  const { text, begin, end } = spanOf(words);
  const columns = [...text.trim()].reduce((sum, char) => sum + (WIDE.test(char) ? 2 : 1), 0);
  return columns <= CUE_COLUMNS && end - begin <= CUE_MAX_MS;
}

function clock(milliseconds) {
  const part = (value, width) => String(Math.floor(value)).padStart(width, "0");
  const seconds = milliseconds / 1000;
  const hms = [seconds / 3600, (seconds / 60) % 60, seconds % 60].map((value) => part(value, 2)).join(":");
  return `${hms},${part(milliseconds % 1000, 3)}`;
}
