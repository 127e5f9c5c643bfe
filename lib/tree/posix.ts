/**
 * The Linux constants that this room hands to `Libc`, under their own names (x86-64 and arm64 values
 * that are the same on both; O_DIRECTORY and O_NOFOLLOW differ on arm64 and are looked up by architecture).
 *
 * @module
 */

const arm = Deno.build.arch === "aarch64";

export const AT_FDCWD = -100;
export const O_RDONLY = 0;
export const O_WRONLY = 1;
export const O_RDWR = 2;
export const O_CREAT = 0o100;
export const O_EXCL = 0o200;
export const O_TRUNC = 0o1000;
export const O_NONBLOCK = 0o4000;
export const O_DIRECTORY = arm ? 0o40000 : 0o200000;
export const O_NOFOLLOW = arm ? 0o100000 : 0o400000;
export const O_PATH = 0o10000000;
export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;
export const RENAME_NOREPLACE = 1;
export const RENAME_EXCHANGE = 2;
