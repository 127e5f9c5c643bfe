/**
 * What can happen to a tree, as shell scripts: each scenario has a directory of its own, a script that fills it, and one
 * script per version that changes it. All of them run in one tree, so that a version holds everything at once.
 *
 * Scripts may use `bytes OFFSET LENGTH` (the same random bytes every time), `mk KIND NAME` (an entry of any kind),
 * `$SOCKET` (a socket to copy) and `one ID` (a user or group; 0 where `$IDS` says that there is no other).
 */

/** One scenario. */
export interface Scenario {
  name: string;
  /** First what makes version 0, then what makes each further version. */
  steps: readonly string[];
  /** It needs what only root may do: devices, owners, capabilities, `trusted.` attributes. */
  root?: boolean;
  /** It denies its owner to read something, which an ordinary user could not keep; the root of a user namespace can. */
  denies?: boolean;
  /** The root's own metadata changes; it is run in the tree's root. */
  atRoot?: boolean;
}

/** How many versions come after the first. */
export const versionCount = 4;

/** Shell functions for the scripts. */
export const prelude = String.raw`
bytes() { dd if="$POOL/random" iflag=skip_bytes,count_bytes skip="$1" count="$2" bs=64K status=none; }
one() { if [ -n "$IDS" ]; then echo 0; else echo "$1"; fi; }
mk() {
  case $1 in
    reg) bytes 100 5000 > "$2" ;;
    empty) : > "$2" ;;
    dangling) ln -s nowhere/at/all "$2" ;;
    absolute) ln -s /etc/hostname "$2" ;;
    todir) ln -s ../ "$2" ;;
    longlink) ln -s "$(printf '%04095d' 7)" "$2" ;;
    fifo) mkfifo "$2" ;;
    sock) cp -a "$SOCKET" "$2" ;;
    char) mknod "$2" c 1 3 ;;
    block) mknod "$2" b 7 200 ;;
    dir) mkdir -p "$2/in/deep"; echo a > "$2/a"; echo b > "$2/in/b"; ln -s a "$2/in/l" ;;
    emptydir) mkdir "$2" ;;
    hard) [ -e .hard ] || echo hard > .hard; ln .hard "$2" ;;
    *) echo "no kind $1" >&2; return 1 ;;
  esac
}
`;

const kinds = [
  "reg",
  "empty",
  "dangling",
  "absolute",
  "todir",
  "longlink",
  "fifo",
  "sock",
  "dir",
  "emptydir",
  "hard",
];
const rootKinds = ["char", "block"];

/** create, modify, delete, rename of one kind. */
function life(kind: string): Scenario {
  const modify = kind === "dir" || kind === "emptydir"
    ? "echo more > mod/more; chmod 700 mod"
    : ["dangling", "absolute", "todir", "longlink"].includes(kind)
    ? "ln -sfn other/target mod; touch -h -d 2001-01-01 touched"
    : ["fifo", "sock", "char", "block"].includes(kind)
    ? "chmod 640 mod; touch -d 2001-01-01 touched"
    : "echo more >> mod; touch -d 2001-01-01 touched";
  return {
    name: `life-${kind}`,
    root: rootKinds.includes(kind),
    steps: [
      `mkdir sub; for n in mod touched del ren move keep delrec; do mk ${kind} $n; done`,
      `mk ${kind} new; ${modify}; rm -rf del delrec; mv ren ren2; mv move sub/moved; mk ${kind} sub/new`,
      `rm -rf new; mk ${kind} delrec; mv ren2 ren; mv sub/moved move; mv sub/new sub/new2`,
      `rm -rf delrec mod; mv sub/new2 new; mk ${kind} mod; mkdir fresh; mv keep fresh/keep`,
      `rm -rf *; mk ${kind} keep`,
    ],
  };
}

function typeChanges(
  name: string,
  list: readonly string[],
  others: readonly string[],
  root: boolean,
): Scenario {
  const pairs: [string, string][] = [];
  for (const a of list) {
    for (const b of [...list, ...others]) {
      if (a !== b) pairs.push([a, b], ...others.includes(b) ? [[b, a] as [string, string]] : []);
    }
  }
  const to = (way: (pair: [string, string]) => string): string =>
    pairs.map((pair) => `rm -rf ${pair.join("-")}; mk ${way(pair)} ${pair.join("-")}`).join("\n");
  return {
    name,
    root,
    steps: [to(([a]) => a), to(([, b]) => b), to(([a]) => a), "rm -rf *", to(([, b]) => b)],
  };
}

const files: Scenario[] = [
  ...[...kinds, ...rootKinds].map(life),
  typeChanges("types", kinds, [], false),
  typeChanges("types-devices", rootKinds, kinds, true),
];

const directories: Scenario[] = [
  {
    name: "opaque",
    steps: [
      "mkdir -p a/b/c; echo 1 > a/1; echo 2 > a/b/2; echo 3 > a/b/c/3; cp -a a two; cp -a a nested; cp -a a deep; cp -a a same",
      // Recreated in one version; only removed; nested below a recreated one; the very same again.
      `rm -r a; mkdir a; echo n > a/n
       rm -r two
       rm -r nested; mkdir -p nested/b; echo n > nested/b/n
       rm -r deep/b; mkdir deep/b; echo n > deep/b/n
       cp -a same ../opaque-copy; rm -r same; mv ../opaque-copy same`,
      `mkdir two; echo n > two/n
       rm -r nested/b; mkdir -p nested/b/c; echo n > nested/b/c/n
       rm -r deep; mkdir -p deep/b/c; echo 4 > deep/b/c/4
       mkdir a/b; echo 5 > a/b/5`,
      "rm -r a; mkdir -p a/b/c; rm -r two; rm -r deep/b/c; mkdir deep/b/c",
      "rm -r a nested deep; mkdir two a; mkdir a/b; echo last > a/b/2",
    ],
  },
  {
    name: "delete-create-delete",
    steps: [
      "mkdir d e; echo 1 > f; echo 1 > d/f; echo 1 > e/1; echo 1 > e/2",
      "rm -r f d; rm e/1",
      "echo 2 > f; mkdir d; echo 2 > d/g; echo 3 > e/1",
      "rm -r f d; rm e/1 e/2",
      "echo 4 > f; mkdir -p d/f; echo 4 > e/2",
    ],
  },
  {
    name: "never-below",
    steps: [
      "mkdir d; echo k > d/k",
      // Whiteouts of names that no version had; a directory without a lower counterpart that is emptied again.
      "echo t > t; rm t; mkdir g; rmdir g; echo t > d/t; rm d/t; mkdir -p d/n/m; echo x > d/n/m/x; rm -r d/n/m; mkdir d/n/o",
      "rm -r d/n; mkdir -p d/n/m; rmdir d/n/m",
      "mkdir -p p/q; echo 1 > p/q/1; rm -r p; mkdir p",
      "rmdir p; echo p > p",
    ],
  },
  {
    name: "rename-dir",
    steps: [
      `for d in plain written twice out over swapa swapb nest gone into chmodded rec same; do
         mkdir -p $d/s/t; echo $d > $d/1; echo $d > $d/s/2; bytes 0 70000 > $d/s/t/3; ln -s 1 $d/l; done
       mkdir over2 into2 empty`,
      `mv plain plain2
       mv written written2; echo more >> written2/1; echo new > written2/s/new; rm written2/s/t/3
       mv twice twice1; mv twice1 twice2
       mv out out2; mv out2/s outs; mv out2/1 out1
       mv -T over over2
       mv swapa tmp; mv swapb swapa; mv tmp swapb
       mv nest nest2; mv nest2/s nest2/s2; mv nest2/s2/t nest2/s2/t2
       mv gone gone2; rm -r gone2
       mv into into2/x
       mv chmodded chmodded2; chmod 600 chmodded2/s/t/3; chmod 700 chmodded2/s
       mv rec rec2; mkdir -p rec/s; echo again > rec/s/2
       mv same same2; mv same2 same`,
      `mv plain2 plain3; mv written2 written; mv twice2 twice; rm -r twice/s
       mv outs out2/s; mv -T over2 empty; mv swapa tmp; mv swapb swapa; mv tmp swapb
       mv nest2/s2 s2; mv nest2 s2/nest; mv into2/x/s into2/s; mv rec2/s rec2/r; mv rec/s rec2/s; rmdir rec`,
      `mv plain3 plain; mv written written4; echo 4 > written4/s/t/4; mv s2/nest nest; mv s2/t2 nest/t; rm -r s2
       rm -r rec2/s; mv rec2/r rec2/s; mkdir -p fresh/er; mv twice fresh/er/twice; mv fresh/er fresh/est
       mv same same2; rm -r same2/s; mv same2 same; mkdir same/s; echo new > same/s/new`,
      `mv fresh/est/twice twice; rm -r fresh; mkdir -p written/s; echo other > written/s/2; mv plain written4/plain
       mv written4 x; mv x/plain/s x/s/inner; mv chmodded2 chmodded; chmod 644 chmodded/s/t/3`,
    ],
  },
  {
    name: "rename-files",
    steps: [
      "for f in a b c d e f g h; do bytes ${#f}00 20000 > $f; echo $f >> $f; done; mkdir x y; echo p > x/p; echo q > y/q",
      "mv a t; mv b a; mv t b; mv c c1; mv d x/d; mv x/p y/p; mv y/q x/q; mv -f e f; mv g g1; echo new > g; cp -p h h2",
      "mv c1 c2; mv a t; mv b c; mv t a; mv x/d d; echo tail >> d; mv h2 h; ln -f h h3",
      "mv c2 c3; mv x y/x; mv y/x/q .; mv g t; mv g1 g; mv t g1",
      "mv c3 c; mv y/x x; mv y/p x/p; mv q y/q; rm g1; mv g h",
    ],
  },
  {
    name: "rotate-dirs",
    steps: [
      "for d in a b c; do mkdir -p $d/s; echo $d > $d/$d; echo $d > $d/s/$d; done",
      "mv a t; mv b a; mv c b; mv t c",
      "mv a t; mv b a; mv c b; mv t c; echo x >> a/s/c",
      "mv a t; mv b a; mv c b; mv t c; rm -r b/s",
      "mv a/s t; mv c/s a/s; mv t c/s; mkdir b/s; echo s > b/s/b",
    ],
  },
  {
    name: "copies",
    steps: [
      // Two files of the same content and the same metadata, by a copy and not by a link.
      "bytes 0 30000 > one; mkdir d; bytes 40000 30000 > d/in; chmod 640 d/in",
      "cp -p one two; cp -a d e; cp -p d/in three",
      "echo changed >> two; cp -p one four; mv d f; cp -a f d",
      "echo changed >> one; chmod 600 e/in; rm three; cp -p f/in three; cp -p four five",
      "echo more >> four; mv five four; cp -p four five; rm -r f; cp -a d f; echo x >> d/in",
    ],
  },
];

const metacopy: Scenario[] = [
  {
    name: "metadata-of-big-files",
    steps: [
      "for f in chmod touch xattr ren link patch trunc twice hop grow; do bytes 1000 100000 > $f; done; mkdir d; bytes 0 100000 > d/f",
      `chmod 600 chmod; touch -d 2001-01-01 touch; mv ren ren2; chmod 640 ren2; ln link link2; chmod 600 link
       chmod 600 patch; printf x | dd of=patch bs=1 seek=1000 conv=notrunc status=none
       chmod 600 trunc; truncate -s 1000 trunc; chmod 600 twice; mv hop hop1; chmod 600 d/f; mv d e; chmod 600 grow`,
      `chmod 644 chmod; touch -d 2002-01-01 touch; mv ren2 d2; chmod 400 twice; mv hop1 hop2; chmod 600 hop2; mv e/f e/g; chmod 640 e/g
       echo tail >> grow; rm link`,
      `chmod 600 chmod; mv d2 ren; mkdir deep; mv hop2 deep/hop; mv e deep/e; chmod 644 deep/e/g; touch grow; ln twice twice2; chmod 600 twice`,
      "mv deep/e/g f; chmod 600 f; mv deep/hop hop; echo end >> hop; rm -r deep; chmod 644 twice2",
    ],
  },
  {
    name: "metadata-of-big-files-owned",
    root: true,
    steps: [
      "for f in chown caps suid acl attr; do bytes 1000 100000 > $f; done; chmod 4755 suid",
      "chown 1000:1000 chown; setcap cap_net_raw+ep caps; chown 1:2 suid; setfacl -m u:$(one 1000):rw acl; setfattr -n user.k -v v attr",
      "chown 2000 chown; mv caps caps2; chmod 6755 suid; setfacl -m u:$(one 1001):r acl; setfattr -n user.k -v w attr",
      "chmod 600 chown; setcap cap_chown+ep caps2; mv suid s2; chown 3:3 s2; setfacl -b acl; setfattr -x user.k attr",
      "echo tail >> chown; echo tail >> caps2; echo tail >> s2",
    ],
  },
];

const links: Scenario[] = [
  {
    name: "hardlinks",
    steps: [
      `mkdir d e; for g in write first other all chmod break rename more replace dirs; do bytes 500 9000 > $g.a; echo $g >> $g.a; ln $g.a $g.b; ln $g.a d/$g.c; done
       bytes 0 9000 > single; bytes 9000 9000 > alone; echo x > x; echo y > y; ln x x2; ln y y2`,
      `echo w >> write.b; rm first.a; rm other.b; rm all.a all.b d/all.c; chmod 600 d/chmod.c; cp -p break.b t; mv t break.b
       mv rename.a zz; mv rename.b d/; ln more.b more.d; ln more.b e/more.e; ln single single2; ln alone alone2; rm alone
       echo new > replace.b.new; mv replace.b.new replace.b; mv d d2
       echo n > new.a; ln new.a new.b; ln -f x y`,
      `echo w >> d2/write.c; ln first.b first.a; ln other.a other.b; mv zz rename.a; echo s >> single2; rm single; echo m >> e/more.e; mv d2 d
       ln alone2 alone; echo a >> alone; echo n >> new.b; mkdir n; ln new.a n/new.c; rm y2; touch -d 2001-01-01 x2`,
      `rm write.a; mv first.a first.z; chmod 600 other.b; ln d/break.c break.c; rm more.b; mv e f; ln f/more.e e; rm new.a new.b; mv n/new.c .
       rm d/chmod.c; echo both > chmod.a; ln -f chmod.a chmod.b`,
      "rm -r d f; rm *.a; for f in *; do [ -f $f ] && echo end >> $f; done; ln new.c 0; ln 0 zz",
    ],
  },
  {
    // Files that look alike change places: size, mtime and number of names say nothing.
    name: "hardlinks-alike",
    steps: [
      "echo 1 > p; echo 2 > q; ln q q2; touch -d 2001-01-01 p q",
      "ln -f p q",
      "ln -f q2 q",
      "ln -f p q2",
      "ln -f q t; ln -f p q; mv t p",
    ],
  },
  {
    name: "hardlink-many",
    steps: [
      "mkdir a b; echo big > a/0; for i in $(seq 20); do ln a/0 a/$i; ln a/0 b/$i; done",
      "rm -r a; echo tail >> b/7",
      "mkdir a; for i in $(seq 5); do ln b/$i a/$i; done; chmod 600 a/3",
      "mv b c; rm c/1? ; echo tail >> c/20",
      "mv c/1 1; rm -r c; mv a b",
    ],
  },
  {
    name: "hardlink-special",
    denies: true,
    steps: [
      // Names of one FIFO or symlink are not a hard-link group of a manifest; both must still be there.
      "echo f > f; ln f g; chmod 000 f; : > e1; ln e1 e2",
      "chmod 644 g; echo more >> e2",
      "mv f z; : > e1",
      "rm g; ln z g; chmod 400 z",
      "rm e2; ln e1 e3; rm e1; mv g a",
    ],
  },
];

const metadata: Scenario[] = [
  {
    // An ordinary user cannot write in such a directory, even if it is his.
    name: "read-only-directories",
    steps: [
      "for d in a b c d; do mkdir -p $d/in; echo $d > $d/f; echo $d > $d/in/g; done; chmod 555 a b/in c d/in d; chmod 400 a/f",
      "chmod 755 a; echo n > a/n; rm a/f; chmod 555 a; chmod 755 c; rm -r c; chmod 755 d; mv d e; chmod 555 e; chmod 755 b/in; rm b/in/g; chmod 555 b/in",
      "chmod 755 e e/in; rm -r e/in; echo in > e/in; chmod 500 e; mkdir c; echo c > c/c; chmod 555 c",
      "chmod 755 *; rm -r c; echo b > b/b; chmod 555 b; chmod 755 b/in; echo g > b/in/g; chmod 500 b/in",
      "chmod 755 b b/in; rm -r b a; mkdir a; chmod 555 a e",
    ],
  },
  {
    name: "modes",
    denies: true,
    steps: [
      `for m in 0000 0400 0644 0777 1644 2755 4755 6755 7777; do echo $m > f$m; mkdir d$m; echo in > d$m/in; chmod $m f$m; done
       for m in 0000 0555 0700 1777 2755 2777; do [ -d d$m ] || { mkdir d$m; echo in > d$m/in; }; chmod $m d$m; done`,
      "for f in f*; do chmod 0600 $f; done; for d in d*; do chmod 0755 $d; done",
      "for f in f*; do chmod 7777 $f; done; for d in d*; do chmod 0000 $d; done",
      "chmod 0000 f*; chmod 0755 d0*; echo more >> d0000/in; chmod 0555 d0000; echo new > d0700/new; chmod 0000 d0700",
      "chmod 0755 d*; rm -r d2* f4*; chmod 000 d0*",
    ],
  },
  {
    name: "times",
    steps: [
      `touch a b c d e f g h; mkdir dir; touch dir/in; ln -s a l
       touch -d '1969-12-31T23:59:59.999999999Z' a; touch -d '1901-12-14T00:00:00Z' b; touch -d '2300-01-01T00:00:00.123456789Z' c
       touch -d '1970-01-01T00:00:00Z' d; touch -d '2038-01-19T03:14:08.000000001Z' e; touch -h -d '1950-05-05T05:05:05.5Z' l
       echo same > f; touch -d '2020-02-02T02:02:02.2Z' f; touch -d '1960-06-06T06:06:06.6Z' dir`,
      `touch -d '2020-02-02T02:02:02.200000001Z' f; touch -d '1969-12-31T23:59:59.999999998Z' a; touch -d '2400-01-01Z' b
       touch -h -d '1950-05-05T05:05:05.500000001Z' l; touch dir/new; touch -d '1960-06-06T06:06:06.6Z' dir; echo x > g`,
      // Same size and same mtime, other content.
      "echo SAME > f; touch -d '2020-02-02T02:02:02.200000001Z' f; rm dir/new; touch -d '1960-06-06T06:06:06.6Z' dir; touch -r c d",
      "echo Same > f; chmod 600 f; touch -d '2020-02-02T02:02:02.200000001Z' f; rm dir/in; echo > dir/in2; touch -d 2200-01-01Z dir",
      "touch *; touch -h l",
    ],
  },
  {
    name: "xattrs",
    steps: [
      `touch set del change big empty many; mkdir d; echo body > body
       setfattr -n user.x -v 1 del; setfattr -n user.x -v 1 change; setfattr -n user.x -v 1 d; setfattr -n user.empty empty`,
      `setfattr -n user.x -v 1 set; setfattr -x user.x del; setfattr -n user.x -v 2 change; setfattr -n user.big -v "$(printf '%03000d' 1)" big
       for i in $(seq 20); do setfattr -n user.k$i -v v$i many; done; setfattr -n user.y -v 0x00ff0a d; setfattr -n user.b -v 1 body`,
      "setfattr -x user.k7 many; setfattr -n user.k8 -v new many; setfattr -x user.x d; setfattr -n user.big -v small big; echo more >> body",
      "mv many many2; mv d d2; setfattr -n user.z -v 1 d2; setfattr -x user.empty empty; touch d2/in; setfattr -n user.in -v 1 d2/in",
      "rm -r d2; mkdir d2; for i in $(seq 9 20); do setfattr -x user.k$i many2; done; setfattr -x user.b body",
    ],
  },
  {
    name: "acls",
    steps: [
      `touch a b c; mkdir d e; setfacl -m u:$(one 1000):rw a; setfacl -m g:$(one 1000):r,m::r b; setfacl -d -m u:$(one 1000):rwx d; touch d/inherits; mkdir d/sub`,
      "setfacl -m u:$(one 1001):r a; setfacl -b b; setfacl -m u:$(one 5):r c; setfacl -k d; setfacl -d -m g:$(one 7):r e; touch e/new; mkdir e/sub; touch e/sub/new",
      "chmod 600 a; echo more > d/inherits; setfacl -b d/sub; mv e f; touch f/later",
      "setfacl -R -b d; setfacl -m u:$(one 1000):--- c; rm -r f/sub; mkdir f/sub; setfacl -b f/sub; setfacl -k f/sub",
      "setfacl -R -b .; setfacl -R -k .; setfacl -d -m u:$(one 9):rwx .; touch last",
    ],
  },
  {
    name: "owners",
    root: true,
    steps: [
      `touch a b s g c t; mkdir d; ln -s a l; mkfifo p; chown 1000:1001 a; chmod 4755 s; chmod 2755 g; setcap cap_net_bind_service=+ep c
       chown -h 5:6 l; chown 7:8 p d; touch d/in; chown 4294967294:70000 b; setfattr -n trusted.k -v 1 t`,
      "chown 1:1 a; chown 2:2 s; chmod 4755 s; chown 2:2 g; chown -h 6:7 l; chown 9:9 d p; setcap cap_net_bind_service,cap_chown=+ep c; setfattr -n trusted.k -v 2 t",
      "chmod 6755 s; setcap -r c; chown 0:0 d/in; setfattr -x trusted.k t; setfattr -h -n trusted.l -v 1 l; setfattr -n trusted.p -v 1 p",
      "echo more >> s; chmod 4711 s; mv c c2; setcap cap_chown=+ep c2; mv d d2; chown 3:3 d2; setfattr -h -n trusted.l -v 2 l",
      "chown -R 1000:1000 .; setfattr -h -x trusted.l l",
    ],
  },
  {
    name: "root",
    atRoot: true,
    steps: [
      "chmod 750 .; setfattr -n user.root -v 0 .",
      "chmod 755 .; setfattr -n user.root -v 1 .; setfattr -n user.more -v 1 .",
      "touch -d '1999-09-09T09:09:09.9Z' .",
      "setfattr -x user.root .; chmod 2775 .",
      "setfacl -d -m u:$(one 77):rx .; touch -d '2001-01-01Z' .",
    ],
  },
];

const contents: Scenario[] = [
  {
    name: "edits",
    steps: [
      `for f in insert cutstart move double all nonl crlf nul grow shrink empty fill same middle; do bytes 3000 200000 > $f; done
       seq 1 20000 > lines; printf 'no newline' > tail; : > fill`,
      `{ printf 'x'; cat insert; } > t; mv t insert; tail -c +1001 cutstart > t; mv t cutstart
       { tail -c +100001 move; head -c 100000 move; } > t; mv t move; cat double double > t; mv t double; bytes 400000 200000 > all
       printf 'end' >> nonl; sed 's/$/\\r/' crlf > t; mv t crlf; tr x '\\000' < nul > t; mv t nul; bytes 0 100000 >> grow; truncate -s 77777 shrink
       : > empty; bytes 0 200000 > fill; sed -i '5000,5100d; 9000s/^/inserted\\n/' lines; printf ' still' >> tail
       { head -c 90000 middle; echo 'in the middle'; tail -c +90001 middle; } > t; mv t middle`,
      "for f in insert cutstart move double; do printf 'y' | dd of=$f bs=1 seek=55555 conv=notrunc status=none; done; tac lines > t; mv t lines; : > fill; bytes 5 10 > empty",
      "cat insert all > t; mv t all; rm insert; cp double d2; bytes 7 7 >> d2; truncate -s 0 double",
      "for f in *; do tail -c +2 $f > t; mv t $f; done",
    ],
  },
  {
    name: "sizes",
    steps: [
      "for n in 0 1 2 15 16 17 31 32 33 47 48 49 63 64 65 127 4095 4096 4097 65535 65536 65537 131072; do bytes 77 $n > $n; done",
      "for f in *; do printf z >> $f; done",
      "for f in *; do printf Z | dd of=$f bs=1 seek=0 conv=notrunc status=none; done",
      "for f in *; do truncate -s -1 $f; done",
      "for f in *; do bytes 78 $f > $f; done",
    ],
  },
  {
    name: "sparse",
    steps: [
      `truncate -s 1M all; { truncate -s 300K start; bytes 0 100000 >> start; }; bytes 0 100000 > end; truncate -s 1M end
       bytes 0 300000 > punched; truncate -s 3M big; for i in 0 7 19 31; do bytes $((i*100)) 65536 | dd of=big bs=64K seek=$((i*2)) conv=notrunc status=none; done
       fallocate -l 300000 reserved; bytes 0 4096 > block; truncate -s 4096 hole; truncate -s 2M three`,
      `fallocate -p -o 65536 -l 131072 punched; bytes 0 4096 | dd of=all bs=4096 seek=300 conv=notrunc status=none
       bytes 9 5000 | dd of=big bs=1M seek=2 conv=notrunc status=none; truncate -s 4M big; printf x >> hole; printf x | dd of=reserved bs=1 seek=5000 conv=notrunc status=none
       bytes 0 100 >> three; cp -p end end2`,
      "fallocate -p -o 0 -l 200K start; truncate -s 100K end; truncate -s 2M end; mv big big2; chmod 600 big2; fallocate -p -o 0 -l 4096 block; ln three t2",
      "dd if=/dev/zero of=all bs=64K count=10 seek=3 conv=notrunc status=none; fallocate -i -o 4096 -l 8192 start 2>/dev/null || bytes 0 8192 >> start; truncate -s 2M big2",
      "truncate -s 0 all; truncate -s 1M all; truncate -s 100000 punched; rm t2; printf y | dd of=three bs=1 seek=$((1<<20)) conv=notrunc status=none",
    ],
  },
  {
    name: "nothing-really",
    steps: [
      "for f in a b c d; do echo $f > $f; touch -d 2010-10-10 $f; done; mkdir d1; touch -d 2011-11-11 d1; ln a a2",
      // Copied up and equal.
      ": >> a; chmod 644 b; echo c > c; touch -d 2010-10-10 c; touch -r d t; echo D > d; echo d > d; touch -r t d; rm t; mkdir d1/x; rmdir d1/x; touch -d 2011-11-11 d1",
      ": >> a2; chmod 600 b; chmod 644 b; mv d e; mv e d",
      "cp -p a t; cat t > a; touch -r t a; rm t",
      ": >> a; : >> b; : >> c",
    ],
  },
];

const names: Scenario[] = [
  {
    name: "names",
    steps: [
      String.raw`N=$(printf '%0255d' 1); D=$(printf 'd%0254d' 1); mkdir "$D"
       for n in $'caf\xe9' $'\xff\xfe\x01' $'new\nline' $'tab\there' '-rf' '--' ' ' '.. ' '...' 'a\b' "q'q" 'd"d' '*' '?' '$HOME' '%s' '#' '~' '\\x41' '.wh.x' '.wh..wh..opq' '.wh..opq' '.wh.' $'\x7f' 'A' 'a' $'\xc3\xa9' $'e\xcc\x81' $'\xe2\x80\xae' 'con' '{}' 'x=y,z:w' "$N"; do
         echo "$n" > "./$n"; echo in > "$D/$n"; done; echo x > x; ln -- '-rf' 'link to -rf'; ln -s $'new\nline' $'s\xff'`,
      String
        .raw`for n in ./*; do [ -f "$n" ] && echo more >> "$n"; done; mv "$(printf 'd%0254d' 1)" $'dir\xe9\n'`,
      String
        .raw`rm -- '-rf' $'caf\xe9' x; mv -- '.wh.x' x; mv 'A' t; mv 'a' 'A'; mv t 'a'; mv $'\xc3\xa9' t; mv $'e\xcc\x81' $'\xc3\xa9'; mv t $'e\xcc\x81'
       rm $'dir\xe9\n/.wh.x' $'dir\xe9\n/x=y,z:w'; mv $'dir\xe9\n/.wh..wh..opq' .`,
      String
        .raw`echo again > $'caf\xe9'; mkdir -- '-rf'; echo in > './-rf/-rf'; mv $'dir\xe9\n' '.wh.dir'; rm -r '.wh.dir/con'; echo y > .wh.y; echo yy > y`,
      String
        .raw`rm -r '.wh.dir'; mkdir dir; echo wh > dir/.wh.x; echo opq > dir/.wh..wh..opq; rm ./*x* .wh.y; mv -- '-rf' '--rf'`,
    ],
  },
  {
    name: "deep",
    steps: [
      "p=.; for i in $(seq 200); do p=$p/d; done; mkdir -p $p; echo bottom > $p/f; ln $p/f top; echo half > d/d/d/d/d/d/d/d/f",
      "p=.; for i in $(seq 200); do p=$p/d; done; echo more >> $p/f; mv d/d/d/d e; mkdir d/d/d/d; mv e d/d/d/d/x",
      "mv d/d/d/d/x/d/d x; echo g > x/d/d/d/g; rm top",
      "rm -r d; mkdir -p d/d/d/d/d/d; echo f > d/d/d/d/d/d/f",
      "mv x d/d/d/x; chmod 700 d/d/d/x/d/d",
    ],
  },
  {
    name: "wide",
    steps: [
      "mkdir w; (cd w; seq -f '%05.0f' 300 | while read i; do echo $i > f$i; done)",
      "cd w; rm f*7; for i in f*1; do echo more >> $i; done; for i in f*3; do mv $i g$i; done",
      "mv w v; cd v; rm f*5; touch -d 2001-01-01 *2",
      "mv v w; rm w/*9",
      "rm -r w; mkdir w; for i in $(seq 50); do echo $i > w/f0000$i; done",
    ],
  },
];

/** The whole table. */
export const scenarios: readonly Scenario[] = [
  ...files,
  ...directories,
  ...metacopy,
  ...links,
  ...metadata,
  ...contents,
  ...names,
];

/** The script of one step for the given scenarios; `$T` is the tree. */
export function stepScript(list: readonly Scenario[], step: number): string {
  const lines = [prelude, `trap 'echo "in scenario $S, step ${step}" >&2' ERR`, "set -E"];
  for (const { name, steps, atRoot } of list) {
    const script = steps[step];
    if (script === undefined) continue;
    const place = atRoot === true ? `"$T"` : `"$T/${name}"`;
    if (step === 0 && atRoot !== true) lines.push(`mkdir "$T/${name}"`);
    lines.push(`S=${name}\n(cd ${place}\nshopt -s nullglob\n${script}\n)`);
  }
  return lines.join("\n");
}
