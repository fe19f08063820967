/**
 * Run inside the sandbox without a network: copy the source, install node_modules from the cache in DENO_DIR, check.
 *
 *     check.ts HOME LOCK ENTRY [install] [frozen] [imports=HOST:PORT,…] [scripts=npm:NAME,…]
 *
 * Deno runs no code of the source here. With `imports=` modules of these hosts become files below vendor/; `*` means
 * that they are there. With `scripts=` the lifecycle scripts of the packages named run first.
 */

const [home, lock, entry, ...modes] = Deno.args;
const SOURCE = "/work/src";
const APP = "/work/out/app";
const FETCHED_LOCK = "/work/fetch/deno.lock";
const LEFT_OUT = new Set([".git", "node_modules", ".npmrc"]);
const here = home === "." ? APP : `${APP}/${home}`;

function copy(from: string, to: string): void {
  Deno.mkdirSync(to);
  for (const each of Deno.readDirSync(from)) {
    if (LEFT_OUT.has(each.name)) continue;
    const [source, target] = [`${from}/${each.name}`, `${to}/${each.name}`];
    if (each.isSymlink) Deno.symlinkSync(Deno.readLinkSync(source), target);
    else if (each.isDirectory) copy(source, target);
    else if (each.isFile) Deno.copyFileSync(source, target);
  }
}

function deno(...args: string[]): void {
  const done = new Deno.Command(Deno.execPath(), { args, cwd: here, stdin: "null", stdout: "inherit", stderr: "inherit" })
    .outputSync();
  if (!done.success) Deno.exit(done.code);
}

function remove(path: string): void {
  try {
    Deno.removeSync(path, { recursive: true });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** The value of a mode NAME=VALUE. */
function named(name: string): string | undefined {
  return modes.find((mode) => mode.startsWith(`${name}=`))?.slice(name.length + 1);
}

interface Manifest {
  modules?: Record<string, { headers?: Record<string, string> }>;
}

/** Redirects of the lock into the manifest of vendor/: Deno takes them from the lock here, and reads none at the start. */
function redirect(): void {
  let folder = here;
  while (folder !== APP && !there(`${folder}/vendor`)) folder = folder.slice(0, folder.lastIndexOf("/"));
  if (!there(`${folder}/vendor`)) return;
  const path = `${folder}/vendor/manifest.json`;
  const manifest: Manifest = there(path) ? JSON.parse(Deno.readTextFileSync(path)) : {};
  const known = new Map(Object.entries(manifest.modules ?? {}));
  const moved: Record<string, string> = JSON.parse(Deno.readTextFileSync(`${here}/${lock}`)).redirects ?? {};
  for (const [url, location] of Object.entries(moved)) known.set(url, { headers: { location } });
  const sorted = [...known].sort(([one], [other]) => one < other ? -1 : 1);
  Deno.writeTextFileSync(path, JSON.stringify({ ...manifest, modules: Object.fromEntries(sorted) }, null, 2));
}

function there(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}

copy(SOURCE, APP);
const frozen = modes.includes("frozen");
const scripts = named("scripts"), imports = named("imports");
const allowed = imports === "*" ? ["--allow-import"] : imports ? [`--allow-import=${imports}`] : [];
if (modes.includes("install")) {
  if (!frozen) Deno.copyFileSync(FETCHED_LOCK, `${here}/${lock}`);
  const allow = [...allowed, ...(scripts ? [`--allow-scripts=${scripts}`] : [])];
  deno("install", "--cached-only", `--lock=${lock}`, `--frozen=${frozen}`, ...allow, "--entrypoint", entry);
}
if (imports && frozen) redirect();
// As installed, not as it runs: types of a package without any are known so alone before Deno 2.9.
const locked = modes.includes("install") ? [`--lock=${lock}`, `--frozen=${frozen}`] : ["--no-lock"];
deno("check", ...locked, ...allowed, entry);
for (const name of [".deno.lock", ".deno.lock.poll", ".setup-cache.bin"]) remove(`${here}/node_modules/.deno/${name}`);
