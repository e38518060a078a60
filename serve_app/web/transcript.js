// What has been recognized: results of the FunASR protocol in, sentences with times and SubRip out.
// All times are milliseconds from the beginning of the audio.

const CJK = "[\\p{Script=Han}\\p{Script=Hiragana}\\p{Script=Katakana}ー々〇]";
const WORD = new RegExp(`${CJK}|(?:(?!${CJK})[\\p{L}\\p{M}\\p{N}'’]|(?<=\\p{N})[.:,](?=\\p{N}))+`, "gu");
const WIDE = new RegExp(`${CJK}|[\\u3000-\\u303f\\uff00-\\uff60]`, "u");
const SENTENCE_END = /[。？！?!；;]["”’」』）)]*\s*$|\.["”’)]*\s*$/u;
const CLAUSE_END = /[，。？！、；：,.?!;:…]["”’」』）)]*\s*$/u;

const CUE_COLUMNS = 42;
const CUE_MAX_MS = 7_000;
const CUE_MIN_MS = 800;

export class Transcript {
  constructor() {
    this.sentences = [];
    this.partial = "";
    this.partialBegin = null;
  }

  get text() {
    return [...this.sentences.map((sentence) => sentence.text), this.partial].reduce(joined, "");
  }

  /** Takes one result. `heard` is how much audio had been sent by then: for servers that give no times. */
  take(message, heard) {
    // SenseVoice puts tags such as <|zh|> in front of its text.
    const text = String(message.text ?? "").replace(/<\|[^|>]*\|>/g, "");
    const times = { begin: number(message.start_time), end: number(message.end_time) };
    if (message.mode === "offline") {
      this.add(sentencesOf(text, message), heard);
    } else if (message.mode === "2pass-offline") {
      this.clearPartial();
      this.add([sentence(text, message, times)], heard);
    } else {
      this.partial += text;
      this.partialBegin ??= times.begin;
      if (message.is_final || message.slice_type === 2) {
        const whole = sentence(this.partial, message, { begin: this.partialBegin, end: times.end });
        this.clearPartial();
        this.add([whole], heard);
      }
    }
  }

  clearPartial() {
    this.partial = "";
    this.partialBegin = null;
  }

  add(sentences, heard) {
    for (const { text, begin, end, words } of sentences) {
      if (!text.trim()) continue;
      const earliest = this.sentences.at(-1)?.end ?? 0;
      const known = begin !== null && end !== null && end > begin;
      this.sentences.push({
        text: text.trim(),
        begin: known ? begin : earliest,
        end: known ? end : Math.max(heard, earliest + 1),
        words,
        estimated: !known,
      });
    }
  }

  /** SubRip: short cues, cut at punctuation where the words' times are known. */
  srt() {
    const cues = this.sentences.flatMap(cuesOf);
    return cues
      .map(({ text, begin, end }, i) => {
        const next = cues[i + 1]?.begin ?? Infinity;
        const last = Math.max(begin + 1, Math.min(Math.max(end, begin + CUE_MIN_MS), next));
        return `${i + 1}\n${clock(begin)} --> ${clock(last)}\n${text}\n`;
      })
      .join("\n");
  }
}

function number(value) {
  return Number.isFinite(value) ? value : null;
}

/** Appends with a space where two Latin words would otherwise touch. */
function joined(left, right) {
  const touch = /[\p{Script=Latin}\p{N}.,;:?!]$/u.test(left) && /^[\p{Script=Latin}\p{N}]/u.test(right);
  return left + (touch ? " " : "") + right;
}

function sentence(text, message, { begin, end }) {
  const pairs = pairsOf(message.timestamp);
  return {
    text,
    begin: begin ?? pairs[0]?.[0] ?? null,
    end: end ?? pairs.at(-1)?.[1] ?? null,
    words: timedWords(text, pairs),
  };
}

/** The sentences of an offline result, which covers the whole recording. */
function sentencesOf(text, message) {
  const whole = sentence(text, message, { begin: number(message.start_time), end: number(message.end_time) });
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

/**
 * Words with their times, each with the marks and spaces up to the next. Empty unless there is exactly one
 * pair per word, or as many as FunASR's own page counts: one for each character of 54.6% but the point.
 */
export function timedWords(text, pairs) {
  const found = [...text.matchAll(WORD)];
  const words = found.map(({ index }, i) => text.slice(i ? index : 0, found[i + 1]?.index ?? text.length));
  const perWord = words.length === pairs.length ? words.map(() => 1) : words.map(pairsPerWord);
  if (!words.length || perWord.reduce((a, b) => a + b) !== pairs.length || perWord.includes(0)) return [];
  let next = 0;
  return words.map((word, i) => {
    const own = pairs.slice(next, (next += perWord[i]));
    return { text: word, begin: own[0][0], end: own.at(-1)[1] };
  });
}

function pairsPerWord(word) {
  const parts = word.split(/[。？，、?., ]/);
  return parts.reduce((count, part) => count + (/^[a-zA-Z]+$/.test(part) ? 1 : part.length), 0);
}

/** Splits words after each one that matches `boundary`. */
function grouped(words, boundary) {
  const groups = [[]];
  for (const word of words) {
    groups.at(-1).push(word);
    if (boundary.test(word.text)) groups.push([]);
  }
  return groups.filter((group) => group.length);
}

function spanOf(words) {
  const text = words.map((word) => word.text).join("");
  return { text, begin: words[0].begin, end: words.at(-1).end, words };
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
