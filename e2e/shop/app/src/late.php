<?php

$GLOBALS['files']['src/late.php'] = '@RELEASE@';
