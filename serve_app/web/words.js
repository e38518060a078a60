// Texts and the times of their words, as the protocols bring them. Times are milliseconds.

const CJK = "[\\p{Script=Han}\\p{Script=Hiragana}\\p{Script=Katakana}ー々〇]";
const WORD = new RegExp(`${CJK}|(?:(?!${CJK})[\\p{L}\\p{M}\\p{N}'’]|(?<=\\p{N})[.:,](?=\\p{N}))+`, "gu");

/** Ends a sentence. */
export const SENTENCE_END = /[。？！?!；;]["”’」』）)]*\s*$|\.["”’)]*\s*$/u;

export function number(value) {
  return Number.isFinite(value) ? value : null;
}

/** Appends with a space where two Latin words would otherwise touch. */
export function joined(left, right) {
  const touch = /[\p{Script=Latin}\p{N}.,;:?!]$/u.test(left) && /^[\p{Script=Latin}\p{N}]/u.test(right);
  return left + (touch ? " " : "") + right;
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

/**
 * The same where the words are told with their times: each with what follows it in `text`. Empty where they
 * are not those of the text, as where numbers became digits.
 */
export function placedWords(text, words) {
  const starts = [];
  let at = 0;
  for (const word of words) {
    const start = word.text ? text.indexOf(word.text, at) : -1;
    if (start < 0 || holdsWords(text.slice(at, start))) return [];
    starts.push(start);
    at = start + word.text.length;
  }
  if (holdsWords(text.slice(at))) return [];
  return words.map((word, i) => ({ ...word, text: text.slice(i ? starts[i] : 0, starts[i + 1] ?? text.length) }));
}

function holdsWords(text) {
  return /[\p{L}\p{N}]/u.test(text);
}

/** Splits words after each one that matches `boundary`. */
export function grouped(words, boundary) {
  const groups = [[]];
  for (const word of words) {
    groups.at(-1).push(word);
    if (boundary.test(word.text)) groups.push([]);
  }
  return groups.filter((group) => group.length);
}

export function spanOf(words) {
  const text = words.map((word) => word.text).join("");
  return { text, begin: words[0].begin, end: words.at(-1).end, words };
}
