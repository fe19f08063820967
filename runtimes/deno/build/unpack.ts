/**
 * Run inside the sandbox of a step that sees no source and no network: unpack npm tarballs that the node verified, as
 * Deno's own cache has them.
 *
 *     unpack.ts LIST SHARED DENO_DIR
 *
 * LIST is JSON [{"name", "version", "folder", "path", "url", "integrity"}]. A package's registry.json is made of the
 * package.json in its tarball, so that nothing of it is unverified. One without a path runs on another platform, which
 * its "os" and "cpu" name: Deno reads of it that it leaves it out.
 */

interface Entry {
  name: string;
  version: string;
  folder: string;
  path: string;
  url: string;
  integrity: string;
  os?: string[];
  cpu?: string[];
}

const REGISTRY = "https://registry.npmjs.org";
const TOLD = [
  "dependencies", "optionalDependencies", "peerDependencies", "peerDependenciesMeta", "bin", "os", "cpu", "libc",
  "deprecated", "scripts", "bundleDependencies", "bundledDependencies", "engines",
];
const AT_ONCE = 4;
const BASE32 = "abcdefghijklmnopqrstuvwxyz234567";
const NAME = /^(?:@[\w~-][\w.~-]*\/)?[\w~-][\w.~-]*$/;
const BLOCK = 512;
const text = new TextDecoder();

/** The members of a tar archive (POSIX pax and GNU long names): name, mode, bytes. Only plain files. */
function* members(data: Uint8Array): Generator<[string, number, Uint8Array]> {
  let long = "", pax = new Map<string, string>();
  for (let at = 0; at + BLOCK <= data.length;) {
    const head = data.subarray(at, at + BLOCK);
    if (head.every((byte) => byte === 0)) return;
    const field = (from: number, length: number) => {
      const raw = head.subarray(from, from + length);
      const end = raw.indexOf(0);
      return text.decode(end < 0 ? raw : raw.subarray(0, end));
    };
    const size = head[124] & 0x80
      ? head.subarray(125, 136).reduce((sum, byte) => sum * 256 + byte, 0)
      : parseInt(field(124, 12).trim() || "0", 8);
    const type = String.fromCharCode(head[156] || 48);
    const body = data.subarray(at + BLOCK, at + BLOCK + size);
    if (!Number.isSafeInteger(size) || body.length < size) throw new Error("the archive is cut short");
    at += BLOCK + Math.ceil(size / BLOCK) * BLOCK;
    if (type === "L") {
      long = text.decode(body).replace(/\0.*$/s, "");
    } else if (type === "x") {
      pax = records(body);
    } else {
      if (type === "0") {
        const prefix = field(257, 5) === "ustar" && !long ? field(345, 155) : "";
        const name = pax.get("path") ?? (long || (prefix ? `${prefix}/${field(0, 100)}` : field(0, 100)));
        yield [name, parseInt(field(100, 8).trim() || "644", 8), body];
      }
      long = "";
      pax = new Map();
    }
  }
}

/** The records of a pax header: "LENGTH KEY=VALUE\n". */
function records(body: Uint8Array): Map<string, string> {
  const found = new Map<string, string>();
  for (let at = 0; at < body.length;) {
    const blank = body.indexOf(32, at);
    const length = blank < 0 ? 0 : Number(text.decode(body.subarray(at, blank)));
    if (!(length > 0)) break;
    const [key, ...value] = text.decode(body.subarray(blank + 1, at + length - 1)).split("=");
    found.set(key, value.join("="));
    at += length;
  }
  return found;
}

async function unpacked(path: string): Promise<Uint8Array> {
  const file = await Deno.open(path);
  const stream = file.readable.pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Unpack one tarball below its first folder; returns its package.json. */
async function unpack(entry: Entry, shared: string, into: string): Promise<Record<string, unknown>> {
  const made = new Set<string>();
  let manifest: Record<string, unknown> = {};
  Deno.mkdirSync(into, { recursive: true });
  for (const [name, mode, body] of members(await unpacked(`${shared}/${entry.path}`))) {
    const parts = name.split("/").filter((part) => part !== "" && part !== ".").slice(1);
    if (!parts.length || parts.includes("..") || name.includes("\0")) continue;
    const path = `${into}/${parts.join("/")}`;
    const folder = path.slice(0, path.lastIndexOf("/"));
    if (!made.has(folder)) {
      Deno.mkdirSync(folder, { recursive: true });
      made.add(folder);
    }
    Deno.writeFileSync(path, body, { mode: mode & 0o111 ? 0o755 : 0o644 });
    if (parts.length === 1 && parts[0] === "package.json") manifest = JSON.parse(text.decode(body).replace(/^\uFEFF/, ""));
  }
  return manifest;
}

const [list, shared, cache] = Deno.args;
const entries: Entry[] = JSON.parse(Deno.readTextFileSync(list));
const root = `${cache}/npm/registry.npmjs.org`;
const registries = new Map<string, Record<string, unknown>>();
const waiting = [...entries];
await Promise.all(Array.from({ length: AT_ONCE }, async () => {
  for (let entry = waiting.shift(); entry; entry = waiting.shift()) {
    const into = `${root}/${entry.folder}/${entry.version}`;
    if (!entry.path) Deno.mkdirSync(`${root}/${entry.folder}`, { recursive: true });
    const manifest: Record<string, unknown> = entry.path ? await unpack(entry, shared, into) : { os: entry.os, cpu: entry.cpu };
    const usual = !/^https?:/.test(entry.url);
    const dist = { tarball: usual ? `${REGISTRY}/${entry.url}` : entry.url, shasum: "", integrity: entry.integrity };
    const info: Record<string, unknown> = { name: entry.name, version: entry.version, dist };
    for (const key of TOLD) if (manifest[key] !== undefined) info[key] = manifest[key];
    const known = registries.get(entry.folder) ?? { name: entry.name, versions: {}, "dist-tags": {} };
    (known.versions as Record<string, unknown>)[entry.version] = info;
    registries.set(entry.folder, known);
  }
}));
/** As `folder_of` of builder/pipelines/deno/lock.py: a name with capitals is encoded. */
function folderOf(name: string): string {
  if (name === name.toLowerCase()) return name;
  let bits = 0, value = 0, found = "_";
  for (const byte of new TextEncoder().encode(name)) {
    value = (value << 8 | byte) & 0xfff;
    for (bits += 8; bits >= 5; bits -= 5) found += BASE32[value >> (bits - 5) & 31];
  }
  return bits ? found + BASE32[value << (5 - bits) & 31] : found;
}

// An optional peer that the lock has none of: Deno looks it up all the same, and finds that there is no version.
for (const known of [...registries.values()]) {
  for (const info of Object.values(known.versions as Record<string, Record<string, unknown>>)) {
    for (const key of ["peerDependencies", "optionalDependencies"]) {
      const named = info[key];
      for (const name of named && typeof named === "object" ? Object.keys(named) : []) {
        const folder = NAME.test(name) ? folderOf(name) : "";
        if (!folder || registries.has(folder)) continue;
        Deno.mkdirSync(`${root}/${folder}`, { recursive: true });
        registries.set(folder, { name, versions: {}, "dist-tags": {} });
      }
    }
  }
}
for (const [folder, known] of registries) {
  const versions = Object.keys(known.versions as object).sort();
  if (versions.length) known["dist-tags"] = { latest: versions[versions.length - 1] };
  known["_deno.packumentFormat"] = "full";
  Deno.writeTextFileSync(`${root}/${folder}/registry.json`, JSON.stringify(known));
}
console.log(`${entries.filter((entry) => entry.path).length} packages unpacked`);
