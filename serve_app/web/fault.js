// Something that the user has to be told: a key of the messages in i18n.js, and what to put into it.

export class Fault extends Error {
  constructor(key, values = {}) {
    super(key);
    this.key = key;
    this.values = values;
  }
}
