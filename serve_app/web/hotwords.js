// What a server says of hotwords: the words that it listened for, and those that it did not and why.

/** All that was told in one run: a word that was listened for in any sentence was listened for. */
export class Hotwords {
  applied = new Set();
  /** Reasons by word. */
  ignored = new Map();

  /** Takes a report as the server sends it: `{ applied: [text], ignored: [{ text, reason }] }`. */
  add({ applied, ignored }) {
    for (const text of applied ?? []) this.applied.add(String(text));
    for (const { text, reason } of ignored ?? []) this.ignored.set(String(text), String(reason ?? ""));
    for (const text of this.applied) this.ignored.delete(text);
  }

  /** Sentences for the reader; empty as long as nothing was told. */
  text(texts) {
    const parts = [];
    if (this.applied.size) parts.push(texts.get("hotwordsApplied", { words: [...this.applied].join(", ") }));
    for (const [reason, words] of this.byReason()) {
      parts.push(texts.get("hotwordsIgnored", { words: words.join(", "), reason }));
    }
    return parts.join(" ");
  }

  byReason() {
    const grouped = new Map();
    for (const [text, reason] of this.ignored) {
      if (!grouped.has(reason)) grouped.set(reason, []);
      grouped.get(reason).push(text);
    }
    return grouped;
  }
}
