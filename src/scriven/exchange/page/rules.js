/** Rules of what is written are the server's: this page has none. The same functions as in server/page/rules.js. */

export const RULE_NAMES = [];

export const makeRules = () => ({ values: () => ({}), set() {}, show: () => "" });
