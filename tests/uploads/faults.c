/* Makes file operations of the server fail, and records them. Loaded with LD_PRELOAD.
 *
 * UPLOAD_FAULTS names a folder. While it has a file `fsync`, whose text is a pattern of paths, fsync fails for these.
 * While it has a file `tmpfile`, no file can be made without a name. `log` gets a line per fsync, link and rename. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Opens a file of the folder without the functions below. */
static int open_own(const char *name, int flags) {
    const char *folder = getenv("UPLOAD_FAULTS");
    char path[4096];
    if (!folder)
        return -1;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0666);
}

/* Whether the fault is set; for any path, or for this one. */
static int is_set(const char *name, const char *path) {
    char pattern[256];
    int file = open_own(name, O_RDONLY);
    if (file < 0)
        return 0;
    ssize_t length = read(file, pattern, sizeof pattern - 1);
    close(file);
    if (!path)
        return 1;
    pattern[length > 0 ? length : 0] = 0;
    return fnmatch(pattern, path, 0) == 0;
}

static void record(const char *call, const char *path) {
    char line[4200];
    if (!strstr(path, "/uploads"))
        return;
    int file = open_own("log", O_WRONLY | O_CREAT | O_APPEND);
    if (file < 0)
        return;
    int length = snprintf(line, sizeof line, "%s %s\n", call, path);
    if (write(file, line, (size_t)length) < 0)
        abort();
    close(file);
}

int fsync(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = 0;
    record("fsync", path);
    if (is_set("fsync", path)) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fsync, file);
}

int rename(const char *from, const char *to) {
    record("rename", to);
    return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    record("link", to);
    return (int)syscall(SYS_linkat, from_folder, from, to_folder, to, flags);
}

static int open_any(const char *path, int flags, unsigned mode) {
    if ((flags & O_TMPFILE) == O_TMPFILE && is_set("tmpfile", NULL)) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    unsigned mode = va_arg(arguments, unsigned);
    va_end(arguments);
    return open_any(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    unsigned mode = va_arg(arguments, unsigned);
    va_end(arguments);
    return open_any(path, flags | O_LARGEFILE, mode);
}
