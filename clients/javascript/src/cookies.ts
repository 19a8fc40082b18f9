// The Cookie header is read and the guest's cookies are expired here: pure functions of text.

/**
 * The values of the cookies called `name`, in the order of the header, without the quotes around them.
 *
 * Only SP and HTAB are white space (RFC 6265, section 4.2.1). A name that follows U+00A0 or another space is another
 * name: a browser accepts such a cookie from any subdomain, since it sees no `__Host-` prefix in it.
 */
export function cookieValues(header: string, name: string): string[] {
  return header.split(";").flatMap((each) => {
    const pair = trimmed(each);
    if (!pair.startsWith(`${name}=`) || pair.length === name.length + 1) return [];
    return [pair.slice(name.length + 1).replace(/^"(.*)"$/s, "$1")];
  });
}

/** Without SP and HTAB around it. By hand: as a regular expression it takes quadratic time for a header of spaces. */
function trimmed(text: string): string {
  let [start, end] = [0, text.length];
  while (text[start] === " " || text[start] === "\t") start += 1;
  while (end > start && (text[end - 1] === " " || text[end - 1] === "\t")) end -= 1;
  return text.slice(start, end);
}

export interface CookieSettings {
  names: readonly string[];
  domain: string | undefined;
  secure: boolean;
  partitioned: boolean;
}

/** The `Set-Cookie` lines that delete each of the guest's cookies, and the host-only one beside one with a domain. */
export function expiredCookies({ names, domain, secure, partitioned }: CookieSettings): string[] {
  return names.flatMap((name) => {
    const isSecure = secure || partitioned || /^__(Host|Secure)-/i.test(name);
    const line =
      `${name}=; Max-Age=0; HttpOnly; Path=/; SameSite=${partitioned ? "None" : "Lax"}` +
      `${isSecure ? "; Secure" : ""}${partitioned ? "; Partitioned" : ""}`;
    return domain && !/^__Host-/i.test(name) ? [line, `${line}; Domain=${domain}`] : [line];
  });
}

/** The `Cache-Control` of a response that gives the visitor a token: for no shared cache (RFC 9111, section 5.2.2.7). */
export function privateCacheControl(present: string | null): string {
  const directives = present?.match(/[^\s,=]+(?:=(?:"[^"]*"|[^,]*))?/g) ?? [];
  const kept = directives.filter((each) => !/^(public|private|s-maxage)(=|$)/i.test(each));
  return ["private", ...kept].join(", ");
}
