/* Makes flock fail with the error whose number is in FLOCK_FAULT. Loaded with LD_PRELOAD. */

#include <errno.h>
#include <stdlib.h>
#include <sys/file.h>

int flock(int file, int operation) {
    const char *fault = getenv("FLOCK_FAULT");
    (void)file;
    (void)operation;
    errno = fault ? atoi(fault) : EIO;
    return -1;
}
