// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pages that come without a fault (process_vm_writev), an attached System V
 * segment, a memfd, a mapping of /dev/zero, and one that is gone before anyone
 * looks at maps.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE 4096UL
#define RW (PROT_READ | PROT_WRITE)

static char *map(unsigned long pages, int flags, int fd)
{
	char *area = mmap(NULL, pages * PAGE, RW, flags, fd, 0);

	if (area == MAP_FAILED)
		exit(1);
	return area;
}

int main(int argc, char **argv)
{
	char *area = map(8, MAP_PRIVATE | MAP_ANONYMOUS, -1), *segment, *shm, *zero, *brief;
	char bytes[4] = "abc";
	struct iovec from = { bytes, 3 }, to = { area + PAGE, 3 };
	int id, fd;
	unsigned long i;

	if (process_vm_writev(getpid(), &from, 1, &to, 1, 0) != 3)
		return 1;
	id = shmget(IPC_PRIVATE, 6 * PAGE, IPC_CREAT | 0600);
	segment = shmat(id, NULL, 0);
	shmctl(id, IPC_RMID, NULL);
	if (segment == (char *)-1)
		return 1;
	segment[0] = segment[3 * PAGE] = 1;
	fd = memfd_create("demo", 0);
	if (fd < 0 || ftruncate(fd, 8 * PAGE) < 0)
		return 1;
	shm = map(8, MAP_SHARED, fd);
	for (i = 0; i < 4; i++)
		shm[i * PAGE] = 1;
	fd = open("/dev/zero", O_RDWR);
	zero = map(4, MAP_SHARED, fd);
	zero[0] = 1;
	fd = open(argc > 1 ? argv[1] : "/etc/passwd", O_RDONLY);
	brief = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
	bytes[0] = *(volatile char *)brief;
	munmap(brief, PAGE);
	usleep(argc > 2 ? 1000 : 120000);
	shmdt(segment);
	return bytes[0] == 1;
}
