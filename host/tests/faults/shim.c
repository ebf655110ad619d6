/* For LD_PRELOAD: every sync fails with EIO as long as there is a file with the name that FAILING_SYNCS holds. */
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int sync_with(long call, int file) {
    const char *name = getenv("FAILING_SYNCS");
    if (name && access(name, F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(call, file);
}

int fdatasync(int file) { return sync_with(SYS_fdatasync, file); }
int fsync(int file) { return sync_with(SYS_fsync, file); }
