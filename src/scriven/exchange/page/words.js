/** Words are divided by a server: this page has none. */

export class Words {}
