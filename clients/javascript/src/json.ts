// JSON Merge Patch (RFC 7396) and JSON Patch (RFC 6902).

/** What `patch` takes for a payload of type T: null removes a member, a list is replaced as a whole. */
export type MergePatch<T> = T extends readonly unknown[]
  ? T
  : T extends object
    ? { [Member in keyof T]?: MergePatch<T[Member]> | null }
    : T;

/** One operation of a JSON Patch; `path` and `from` are JSON Pointers (RFC 6901) into the payload. */
export type JsonPatchOperation =
  | { op: "add" | "replace" | "test"; path: string; value: unknown }
  | { op: "remove"; path: string }
  | { op: "move" | "copy"; from: string; path: string };
