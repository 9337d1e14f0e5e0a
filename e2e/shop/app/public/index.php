<?php
// The front controller: every request comes through here.

declare(strict_types=1);

$GLOBALS['files']['public/index.php'] = '@RELEASE@';

require __DIR__ . '/../vendor/autoload.php';

Shop\Kernel::answer();
