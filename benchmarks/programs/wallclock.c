/* LD_PRELOAD: a wall clock for these processes alone, which may be set while they run.
 *
 * $CHAOS_CLOCK is a file of eight bytes, the seconds by which the clock is wrong. A timer for a
 * moment of that clock ends at least once a second: nobody tells it that the clock was set, as the
 * kernel would. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset;
static const int64_t none = 0;
static int wall_timer[1024]; /* by descriptor */
static int (*real_gettime)(clockid_t, struct timespec *);
static int (*real_create)(int, int);
static int (*real_settime)(int, int, const struct itimerspec *, struct itimerspec *);

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CHAOS_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *page = fd < 0 ? MAP_FAILED : mmap(NULL, 8, PROT_READ, MAP_SHARED, fd, 0);
    offset = page == MAP_FAILED ? &none : page;
    if (fd >= 0)
        close(fd);
    real_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    real_create = dlsym(RTLD_NEXT, "timerfd_create");
    real_settime = dlsym(RTLD_NEXT, "timerfd_settime");
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real_gettime)
        begin();
    int result = real_gettime(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *offset;
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec at;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &at);
    now->tv_sec = at.tv_sec;
    now->tv_usec = at.tv_nsec / 1000;
    return result;
}

time_t time(time_t *now) {
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    if (now)
        *now = at.tv_sec;
    return at.tv_sec;
}

int timerfd_create(int clock, int flags) {
    int fd = real_create(clock, flags);
    if (fd >= 0 && fd < 1024)
        wall_timer[fd] = clock == CLOCK_REALTIME;
    return fd;
}

int timerfd_settime(int fd, int flags, const struct itimerspec *when, struct itimerspec *before) {
    struct itimerspec mine = *when;
    struct timespec now;
    if (fd >= 0 && fd < 1024 && wall_timer[fd] && flags & TFD_TIMER_ABSTIME) {
        real_gettime(CLOCK_REALTIME, &now);
        mine.it_value.tv_sec -= *offset;
        if (mine.it_value.tv_sec > now.tv_sec)
            mine.it_value.tv_sec = now.tv_sec + 1;
        if (mine.it_value.tv_sec < 1)
            mine.it_value.tv_sec = 1;
    }
    return real_settime(fd, flags, &mine, before);
}
