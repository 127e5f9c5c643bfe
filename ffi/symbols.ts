/**
 * The functions of libdrover.so in the order of native-src/drover.h, each with its C prototype.
 *
 * Names ending in `_async` are the same function on Deno's blocking pool.
 *
 * @module
 */

/** DROVER_VERSION of the header this table was written for. */
export const libraryVersion = "0.1.0";

/** What every version of the library has: enough to say that it is another one. */
export const identitySymbols = {
  // int drover_version(char *buffer, size_t size);
  drover_version: { parameters: ["buffer", "usize"], result: "i32" },
  // int drover_layout(char *buffer, size_t size);
  drover_layout: { parameters: ["buffer", "usize"], result: "i32" },
} as const satisfies Deno.ForeignLibraryInterface;

/** Everything else. */
export const symbols = {
  // int drover_identity(struct drover_identity *out);
  drover_identity: { parameters: ["buffer"], result: "i32" },

  // int drover_open(int dir, const char *path, int flags, uint32_t mode);
  drover_open: { parameters: ["i32", "buffer", "i32", "u32"], result: "i32" },
  // int drover_open_beneath(int dir, const char *path, int flags, uint32_t mode);
  drover_open_beneath: { parameters: ["i32", "buffer", "i32", "u32"], result: "i32" },
  // int drover_close(int fd);
  drover_close: { parameters: ["i32"], result: "i32" },
  // int64_t drover_pread(int fd, void *buffer, size_t size, int64_t offset);
  drover_pread: { parameters: ["i32", "buffer", "usize", "i64"], result: "i64" },
  drover_pread_async: {
    name: "drover_pread",
    parameters: ["i32", "buffer", "usize", "i64"],
    result: "i64",
    nonblocking: true,
  },
  // int64_t drover_pwrite(int fd, const void *buffer, size_t size, int64_t offset);
  drover_pwrite: { parameters: ["i32", "buffer", "usize", "i64"], result: "i64" },
  drover_pwrite_async: {
    name: "drover_pwrite",
    parameters: ["i32", "buffer", "usize", "i64"],
    result: "i64",
    nonblocking: true,
  },
  // int drover_ftruncate(int fd, int64_t size);
  drover_ftruncate: { parameters: ["i32", "i64"], result: "i32" },
  // int drover_punch(int fd, int64_t offset, int64_t size);
  drover_punch: { parameters: ["i32", "i64", "i64"], result: "i32" },
  // int drover_pipe_grow(int fd, int size);
  drover_pipe_grow: { parameters: ["i32", "i32"], result: "i32" },
  // int64_t drover_seek(int fd, int64_t offset, int whence);
  drover_seek: { parameters: ["i32", "i64", "i32"], result: "i64" },
  // int64_t drover_copy_range(int source, int64_t source_offset, int target, int64_t target_offset, int64_t size);
  drover_copy_range: { parameters: ["i32", "i64", "i32", "i64", "i64"], result: "i64" },
  // int drover_clone(int source, int target);
  drover_clone: { parameters: ["i32", "i32"], result: "i32" },
  // int drover_fsync(int fd);
  drover_fsync_async: { name: "drover_fsync", parameters: ["i32"], result: "i32", nonblocking: true },
  // int drover_syncfs(int fd);
  drover_syncfs_async: { name: "drover_syncfs", parameters: ["i32"], result: "i32", nonblocking: true },
  // int drover_stat(int dir, const char *path, struct drover_stat *out);
  drover_stat: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  // int drover_fstat(int fd, struct drover_stat *out);
  drover_fstat: { parameters: ["i32", "buffer"], result: "i32" },
  // int64_t drover_readlink(int dir, const char *path, char *buffer, size_t size);
  drover_readlink: { parameters: ["i32", "buffer", "buffer", "usize"], result: "i64" },
  // int drover_symlink(const char *target, int dir, const char *path);
  drover_symlink: { parameters: ["buffer", "i32", "buffer"], result: "i32" },
  // int drover_link(int source_dir, const char *source, int dir, const char *path);
  drover_link: { parameters: ["i32", "buffer", "i32", "buffer"], result: "i32" },
  // int drover_mknod(int dir, const char *path, uint32_t mode, uint32_t major, uint32_t minor);
  drover_mknod: { parameters: ["i32", "buffer", "u32", "u32", "u32"], result: "i32" },
  // int drover_mkdir(int dir, const char *path, uint32_t mode);
  drover_mkdir: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  // int drover_unlink(int dir, const char *path);
  drover_unlink: { parameters: ["i32", "buffer"], result: "i32" },
  // int drover_rmdir(int dir, const char *path);
  drover_rmdir: { parameters: ["i32", "buffer"], result: "i32" },
  // int drover_rename(int source_dir, const char *source, int dir, const char *path, uint32_t flags);
  drover_rename: { parameters: ["i32", "buffer", "i32", "buffer", "u32"], result: "i32" },
  // int drover_chown(int dir, const char *path, uint32_t uid, uint32_t gid);
  drover_chown: { parameters: ["i32", "buffer", "u32", "u32"], result: "i32" },
  // int drover_chmod(int dir, const char *path, uint32_t mode);
  drover_chmod: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  // int drover_set_mtime(int dir, const char *path, int64_t seconds, uint32_t nanos);
  drover_set_mtime: { parameters: ["i32", "buffer", "i64", "u32"], result: "i32" },
  // int drover_fchown(int fd, uint32_t uid, uint32_t gid);
  drover_fchown: { parameters: ["i32", "u32", "u32"], result: "i32" },
  // int drover_fchmod(int fd, uint32_t mode);
  drover_fchmod: { parameters: ["i32", "u32"], result: "i32" },
  // int drover_fset_mtime(int fd, int64_t seconds, uint32_t nanos);
  drover_fset_mtime: { parameters: ["i32", "i64", "u32"], result: "i32" },
  // int64_t drover_xattrs(int dir, const char *path, void *buffer, size_t size);
  drover_xattrs: { parameters: ["i32", "buffer", "buffer", "usize"], result: "i64" },
  // int64_t drover_get_xattr(int dir, const char *path, const char *name, void *buffer, size_t size);
  drover_get_xattr: { parameters: ["i32", "buffer", "buffer", "buffer", "usize"], result: "i64" },
  // int drover_set_xattr(int dir, const char *path, const char *name, const void *value, size_t size);
  drover_set_xattr: { parameters: ["i32", "buffer", "buffer", "buffer", "usize"], result: "i32" },
  // int drover_remove_xattr(int dir, const char *path, const char *name);
  drover_remove_xattr: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  // int drover_file_handle(int dir, const char *path, void *buffer, size_t size);
  drover_file_handle: { parameters: ["i32", "buffer", "buffer", "usize"], result: "i32" },
  // int drover_try_lock(int fd, int exclusive);
  drover_try_lock: { parameters: ["i32", "i32"], result: "i32" },
  // int drover_statfs(int fd, struct drover_statfs *out);
  drover_statfs: { parameters: ["i32", "buffer"], result: "i32" },

  // int64_t drover_dir_read(int fd, void *buffer, size_t size);
  drover_dir_read: { parameters: ["i32", "buffer", "usize"], result: "i64" },

  // int drover_overlay_mount(const char *lower, uint32_t lower_count, const char *upper, const char *work,
  //                          const char *target, uint32_t flags);
  drover_overlay_mount: { parameters: ["buffer", "u32", "buffer", "buffer", "buffer", "u32"], result: "i32" },
  // int drover_unmount(const char *target, int detach);
  drover_unmount: { parameters: ["buffer", "i32"], result: "i32" },
  drover_unmount_async: {
    name: "drover_unmount",
    parameters: ["buffer", "i32"],
    result: "i32",
    nonblocking: true,
  },
  // int drover_remount(const char *target, int read_only);
  drover_remount: { parameters: ["buffer", "i32"], result: "i32" },

  // int drover_probe(const char *dir, char *buffer, size_t size);
  drover_probe: { parameters: ["buffer", "buffer", "usize"], result: "i32" },

  // int64_t drover_content_delta(struct drover_content_piece *pieces, size_t count, const char *names,
  //                              size_t names_size, struct drover_content_op *ops, size_t op_max,
  //                              uint8_t *literals, size_t literal_max);
  drover_content_delta_async: {
    name: "drover_content_delta",
    parameters: ["buffer", "usize", "buffer", "usize", "buffer", "usize", "buffer", "usize"],
    result: "i64",
    nonblocking: true,
  },

  // int64_t drover_zstd_bound(size_t size);
  drover_zstd_bound: { parameters: ["usize"], result: "i64" },
  // int64_t drover_zstd_compress(const void *input, size_t input_size, const void *prefix, size_t prefix_size,
  //                              int level, void *output, size_t capacity);
  drover_zstd_compress: {
    parameters: ["buffer", "usize", "buffer", "usize", "i32", "buffer", "usize"],
    result: "i64",
  },
  drover_zstd_compress_async: {
    name: "drover_zstd_compress",
    parameters: ["buffer", "usize", "buffer", "usize", "i32", "buffer", "usize"],
    result: "i64",
    nonblocking: true,
  },
  // int drover_zstd_check(const void *frame, size_t frame_size, size_t size, int window_log_max);
  drover_zstd_check: { parameters: ["buffer", "usize", "usize", "i32"], result: "i32" },
  // int64_t drover_zstd_decompress(const void *frame, size_t frame_size, const void *prefix, size_t prefix_size,
  //                                int window_log_max, void *output, size_t size);
  drover_zstd_decompress: {
    parameters: ["buffer", "usize", "buffer", "usize", "i32", "buffer", "usize"],
    result: "i64",
  },
  drover_zstd_decompress_async: {
    name: "drover_zstd_decompress",
    parameters: ["buffer", "usize", "buffer", "usize", "i32", "buffer", "usize"],
    result: "i64",
    nonblocking: true,
  },

  // int drover_delta_level(void);
  drover_delta_level: { parameters: [], result: "i32" },
  // int64_t drover_delta_encode(uint32_t codec, uint32_t level, void *bases, size_t base_count,
  //                             const uint32_t *slots, const void *pages, size_t count, void *output,
  //                             size_t capacity);
  drover_delta_encode: {
    parameters: ["u32", "u32", "buffer", "usize", "buffer", "buffer", "usize", "buffer", "usize"],
    result: "i64",
  },
  // int drover_delta_check(uint32_t codec, const void *input, size_t size, size_t count, uint64_t *at);
  drover_delta_check: { parameters: ["u32", "buffer", "usize", "usize", "buffer"], result: "i32" },
  // int drover_delta_decode(uint32_t codec, uint32_t level, const void *input, size_t size, size_t count,
  //                         void *pages);
  drover_delta_decode: {
    parameters: ["u32", "u32", "buffer", "usize", "usize", "buffer"],
    result: "i32",
  },
  // int64_t drover_pages_zero(uint32_t level, const void *pages, size_t count, uint8_t *zero);
  drover_pages_zero: { parameters: ["u32", "buffer", "usize", "buffer"], result: "i64" },

  // int drover_region_open(const char *ssd_path, const struct drover_region_options *options,
  // struct drover_region **out);
  drover_region_open: { parameters: ["buffer", "buffer", "buffer"], result: "i32" },
  drover_region_open_async: {
    name: "drover_region_open",
    parameters: ["buffer", "buffer", "buffer"],
    result: "i32",
    nonblocking: true,
  },
  // int drover_region_open_stores(const struct drover_store_options *stores, uint32_t count,
  // const struct drover_region_options *options, struct drover_region **out);
  drover_region_open_stores: { parameters: ["buffer", "u32", "buffer", "buffer"], result: "i32" },
  // int drover_region_close(struct drover_region *region);
  drover_region_close: { parameters: ["pointer"], result: "i32" },
  drover_region_close_async: {
    name: "drover_region_close",
    parameters: ["pointer"],
    result: "i32",
    nonblocking: true,
  },
  // uint64_t drover_region_address(struct drover_region *region);
  drover_region_address: { parameters: ["pointer"], result: "u64" },
  // uint64_t drover_region_control(struct drover_region *region);
  drover_region_control: { parameters: ["pointer"], result: "u64" },
  // int drover_region_fd(struct drover_region *region);
  drover_region_fd: { parameters: ["pointer"], result: "i32" },
  // int drover_region_pin(struct drover_region *region, uint64_t first, uint64_t count);
  drover_region_pin: { parameters: ["pointer", "u64", "u64"], result: "i32" },
  // int drover_region_unpin(struct drover_region *region, uint64_t first, uint64_t count);
  drover_region_unpin: { parameters: ["pointer", "u64", "u64"], result: "i32" },
  // int64_t drover_region_populate(struct drover_region *region, uint64_t first, uint64_t count);
  drover_region_populate: { parameters: ["pointer", "u64", "u64"], result: "i64" },
  drover_region_populate_async: {
    name: "drover_region_populate",
    parameters: ["pointer", "u64", "u64"],
    result: "i64",
    nonblocking: true,
  },
  // int64_t drover_region_prefetch(struct drover_region *region, const uint64_t *pages, size_t count,
  // uint32_t flags);
  drover_region_prefetch: { parameters: ["pointer", "buffer", "usize", "u32"], result: "i64" },
  drover_region_prefetch_async: {
    name: "drover_region_prefetch",
    parameters: ["pointer", "buffer", "usize", "u32"],
    result: "i64",
    nonblocking: true,
  },
  // int64_t drover_region_evict(struct drover_region *region, const uint64_t *pages, size_t count,
  // uint32_t flags);
  drover_region_evict: { parameters: ["pointer", "buffer", "usize", "u32"], result: "i64" },
  drover_region_evict_async: {
    name: "drover_region_evict",
    parameters: ["pointer", "buffer", "usize", "u32"],
    result: "i64",
    nonblocking: true,
  },
  // int64_t drover_region_reclaim(struct drover_region *region, uint64_t resident);
  drover_region_reclaim: { parameters: ["pointer", "u64"], result: "i64" },
  drover_region_reclaim_async: {
    name: "drover_region_reclaim",
    parameters: ["pointer", "u64"],
    result: "i64",
    nonblocking: true,
  },
  // int drover_region_heat(struct drover_region *region, uint64_t first, uint64_t count, uint32_t heat);
  drover_region_heat: { parameters: ["pointer", "u64", "u64", "u32"], result: "i32" },
  // int64_t drover_region_flush(struct drover_region *region);
  drover_region_flush: { parameters: ["pointer"], result: "i64" },
  drover_region_flush_async: {
    name: "drover_region_flush",
    parameters: ["pointer"],
    result: "i64",
    nonblocking: true,
  },
  // int drover_region_sample(struct drover_region *region, uint64_t first, uint64_t count, uint8_t *out);
  drover_region_sample: { parameters: ["pointer", "u64", "u64", "buffer"], result: "i32" },
  // int64_t drover_region_harvest(struct drover_region *region, uint64_t *bitmap, size_t words);
  drover_region_harvest: { parameters: ["pointer", "buffer", "usize"], result: "i64" },
  // int drover_region_poison(struct drover_region *region, uint64_t first, uint64_t count);
  drover_region_poison: { parameters: ["pointer", "u64", "u64"], result: "i32" },
  // int drover_region_reset(struct drover_region *region, uint64_t first, uint64_t count);
  drover_region_reset: { parameters: ["pointer", "u64", "u64"], result: "i32" },
  // int drover_region_places(struct drover_region *region, uint64_t first, uint64_t count, uint8_t *out);
  drover_region_places: { parameters: ["pointer", "u64", "u64", "buffer"], result: "i32" },
  // int64_t drover_region_move(struct drover_region *region, const uint64_t *pages, size_t count, uint32_t store);
  drover_region_move: { parameters: ["pointer", "buffer", "usize", "u32"], result: "i64" },
  drover_region_move_async: {
    name: "drover_region_move",
    parameters: ["pointer", "buffer", "usize", "u32"],
    result: "i64",
    nonblocking: true,
  },
  // int64_t drover_region_mend(struct drover_region *region, uint64_t first, uint64_t count);
  drover_region_mend: { parameters: ["pointer", "u64", "u64"], result: "i64" },
  drover_region_mend_async: {
    name: "drover_region_mend",
    parameters: ["pointer", "u64", "u64"],
    result: "i64",
    nonblocking: true,
  },
  // int64_t drover_region_retire(struct drover_region *region, uint32_t store, uint32_t flags, uint64_t limit);
  drover_region_retire_async: {
    name: "drover_region_retire",
    parameters: ["pointer", "u32", "u32", "u64"],
    result: "i64",
    nonblocking: true,
  },
  // int drover_region_add_store(struct drover_region *region, const struct drover_store_options *store);
  drover_region_add_store_async: {
    name: "drover_region_add_store",
    parameters: ["pointer", "buffer"],
    result: "i32",
    nonblocking: true,
  },
  // int drover_region_stores(struct drover_region *region, struct drover_store_stats *out, uint32_t count);
  drover_region_stores: { parameters: ["pointer", "buffer", "u32"], result: "i32" },
  // int drover_region_stats(struct drover_region *region, struct drover_region_stats *out);
  drover_region_stats: { parameters: ["pointer", "buffer"], result: "i32" },
  // int drover_region_events(struct drover_region *region, struct drover_region_event *events, size_t count);
  drover_region_events: { parameters: ["pointer", "buffer", "usize"], result: "i32" },

  // int drover_donor_open(const char *address, uint32_t port, struct drover_donor **out);
  drover_donor_open: { parameters: ["buffer", "u32", "buffer"], result: "i32" },
  // int drover_donor_port(struct drover_donor *donor);
  drover_donor_port: { parameters: ["pointer"], result: "i32" },
  // int drover_donor_lend(struct drover_donor *donor, const uint8_t *ticket, void *memory, uint64_t size);
  drover_donor_lend_async: {
    name: "drover_donor_lend",
    parameters: ["pointer", "buffer", "buffer", "u64"],
    result: "i32",
    nonblocking: true,
  },
  // int drover_donor_revoke(struct drover_donor *donor, const uint8_t *ticket);
  drover_donor_revoke_async: {
    name: "drover_donor_revoke",
    parameters: ["pointer", "buffer"],
    result: "i32",
    nonblocking: true,
  },
  // int drover_donor_stats(struct drover_donor *donor, struct drover_donor_stats *out);
  drover_donor_stats: { parameters: ["pointer", "buffer"], result: "i32" },
  // int drover_donor_close(struct drover_donor *donor);
  drover_donor_close_async: {
    name: "drover_donor_close",
    parameters: ["pointer"],
    result: "i32",
    nonblocking: true,
  },

  // int drover_bench_fill(void *memory, uint64_t size, uint8_t *versions);
  drover_bench_fill_async: {
    name: "drover_bench_fill",
    parameters: ["pointer", "u64", "buffer"],
    result: "i32",
    nonblocking: true,
  },
  // int drover_bench_touch(struct drover_region *region, void *memory, uint8_t *versions,
  //                        const struct drover_bench_options *options, struct drover_bench_result *out);
  drover_bench_touch_async: {
    name: "drover_bench_touch",
    parameters: ["pointer", "pointer", "buffer", "buffer", "buffer"],
    result: "i32",
    nonblocking: true,
  },
  // int drover_bench_verify(const void *memory, uint64_t size, const uint8_t *versions, uint64_t *wrong_out);
  drover_bench_verify_async: {
    name: "drover_bench_verify",
    parameters: ["pointer", "u64", "buffer", "buffer"],
    result: "i32",
    nonblocking: true,
  },

  // int drover_fuse_open(const char *target, const char *source, const struct drover_fuse_options *options,
  //                      struct drover_fuse **out);
  drover_fuse_open_async: {
    name: "drover_fuse_open",
    parameters: ["buffer", "buffer", "buffer", "buffer"],
    result: "i32",
    nonblocking: true,
  },
  // uint64_t drover_fuse_room(struct drover_fuse *fuse);
  drover_fuse_room: { parameters: ["pointer"], result: "u64" },
  // int drover_fuse_wait(struct drover_fuse *fuse, struct drover_fuse_request *requests, uint32_t count,
  //                      uint32_t spin_us, uint32_t timeout_ms);
  drover_fuse_wait: { parameters: ["pointer", "buffer", "u32", "u32", "u32"], result: "i32" },
  drover_fuse_wait_async: {
    name: "drover_fuse_wait",
    parameters: ["pointer", "buffer", "u32", "u32", "u32"],
    result: "i32",
    nonblocking: true,
  },
  // int drover_fuse_reply(struct drover_fuse *fuse, uint32_t slot, int32_t error, const void *data,
  //                       uint32_t size);
  drover_fuse_reply: { parameters: ["pointer", "u32", "i32", "buffer", "u32"], result: "i32" },
  // int drover_fuse_stats(struct drover_fuse *fuse, struct drover_fuse_stats *out);
  drover_fuse_stats: { parameters: ["pointer", "buffer"], result: "i32" },
  // int drover_fuse_close(struct drover_fuse *fuse);
  drover_fuse_close: { parameters: ["pointer"], result: "i32" },
} as const satisfies Deno.ForeignLibraryInterface;

/** The functions as Deno hands them out. */
export type Symbols = Deno.StaticForeignLibraryInterface<typeof symbols>;
